"""Every field of a configuration with its default, and which may change on resuming."""

from ml_collections import ConfigDict, config_dict

# Between interruption and resumption. All other fields must match: a new one does
# until it is known to change no result.
MAY_CHANGE = (
    "data.root",
    "data.threads",
    "data.bad_files",
    "data.workers",
    "data.buffer",
    "data.stall_seconds",
    "evaluation.batch_size",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "log_every",
    "log_sinks",
    "skip_not_finite",  # the bits of other steps stay the same
)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def default_config() -> ConfigDict:
    """Every field there is. Step sizes are in normalised pixel units."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256  # over all devices; divisible by their number
    # "released": what has no field of its own follows the released code: the number
    # of seeds is rounded down, thresholds are one of three, and the loss is the mean
    # over originals and hallucinated images together.
    config.compat = ""

    config.data = ConfigDict()
    config.data.kind = "lists"  # or folder, records, tfds, digits, synthetic
    config.data.root = ""
    config.data.tfds_name = ""  # kind tfds: "name", "name/config" or "name:1.0.0"
    # List files or folders below the root; kind tfds: splits, "train", "validation".
    config.data.train = "train.txt"
    config.data.val = "val.txt"
    config.data.test = "test.txt"
    config.data.class_names = ""  # file below the root, one class a line
    config.data.num_classes = 0  # 0: as many as the training split names
    config.data.profile = "none"  # none, exponential or step: thins the training split
    config.data.imbalance = 0.01  # smallest class / largest class of the profile
    config.data.image_size = 64
    config.data.resize = 64  # evaluation: shorter side before the centre crop
    config.data.crop = "random_resized"  # random_resized, pad or none
    config.data.crop_scale = (0.08, 1.0)  # share of the area, random_resized
    config.data.seed_crop_scale = (0.3, 1.0)  # the same for seeds from the data set
    config.data.mean = IMAGENET_MEAN
    config.data.std = IMAGENET_STD
    config.data.threads = 2  # decoding, in each process
    config.data.workers = 0  # processes that make batches; 0: threads alone
    # Training images of one size stay on the devices; the host sends no pixels.
    config.data.on_device = False
    config.data.buffer = 4  # batches held ready at most, as many as workers or more
    # The longest wait for a batch. Workers that give none are an error; of threads,
    # which nothing can end, a line tells.
    config.data.stall_seconds = 600.0
    # An unreadable training image: error stops the run; skip trains with another image
    # of its class and lists it in bad_files.csv. Validation and test always stop.
    config.data.bad_files = "error"

    config.augment = ConfigDict()
    config.augment.flip = True
    config.augment.rotation = 10.0  # degrees to either side
    config.augment.brightness = 0.4
    config.augment.contrast = 0.4
    config.augment.saturation = 0.4

    config.sampler = ConfigDict()
    config.sampler.name = "gamma"  # of stage 2; or shuffled, class_aware
    config.sampler.gamma = 0.9  # Eq. 1: P(class) ~ n^(1 - gamma)
    config.sampler.images_per_class = 4  # class_aware: of a class, one after another

    config.tail = ConfigDict()
    config.tail.rule = "threshold"  # threshold, quantile, fraction or classes
    config.tail.value = 20.0  # images; share of classes; share of the largest class
    config.tail.classes = ()  # their numbers, for rule "classes"

    config.model = ConfigDict()
    config.model.backbone = "resnet10"
    # The first stage that is trained begins with the backbone of this working
    # directory, stage or checkpoint folder; "": with random weights.
    config.model.pretrained = ""
    config.model.head = "squashing_cosine"  # or linear, cosine, meta_embedding
    config.model.alpha = 16.0
    config.model.beta = 0.5
    config.model.projection = True  # 512 -> 512 + ReLU before the head
    config.model.attention = False  # modulated attention before the pooling (OLTR)
    config.model.feature_relu = True  # False: no ReLU after the projection
    # Blocks of the backbone are computed again in the backward pass: less memory.
    config.model.remat = False
    # Of the convolutions; auto: bfloat16 on GPU and TPU, float32 on CPU.
    config.model.dtype = "auto"

    config.loss = ConfigDict()
    # Or large_margin_softmax, additive_margin_softmax, focal, sigmoid_cross_entropy,
    # sigmoid_focal; of stage 2.
    config.loss.name = "cross_entropy"
    # m of the large-margin softmax, 1 to 4; of the additive, a cosine below 1.
    config.loss.margin = 1.0
    # Large-margin softmax: its lambda is max(floor, start / (1 + decay * step)).
    config.loss.annealing_start = 0.0
    config.loss.annealing_decay = 0.0
    config.loss.annealing_floor = 0.0
    config.loss.focus = 2.0  # gamma of the focal losses
    config.loss.class_weights = "none"  # or effective_number
    config.loss.effective_beta = 0.999  # weight ~ (1 - beta) / (1 - beta^n)
    # Of the whole batch, added to the mean: none, lifted_structure, range or centroid.
    # They need several images of a class: sampler.name "class_aware"; and the last one
    # a memory: model.head "meta_embedding".
    config.loss.batch = "none"
    config.loss.batch_weight = 1.0
    config.loss.lifted_margin = 1.0  # a distance of features
    config.loss.range_margin = 5.0  # a squared distance of features
    config.loss.range_intra = 1e-3  # weight of the widest ranges of the classes
    config.loss.range_inter = 0.1  # weight of the nearest centres

    config.hallucination = ConfigDict()
    config.hallucination.enabled = True  # False: the balanced baseline
    config.hallucination.tail_fraction = 0.5  # p
    # gradient, accumulated, newton; none: seeds are appended as they are.
    config.hallucination.step_rule = "gradient"
    config.hallucination.step_size = 0.7  # delta
    config.hallucination.max_iterations = 15
    config.hallucination.max_step = 0.09  # newton, root-mean-square per value
    config.hallucination.max_norm = config_dict.placeholder(float)
    config.hallucination.clip_to_pixel_range = False
    # Uniform between two; of three or more, one of them.
    config.hallucination.threshold = (0.15, 0.25)
    config.hallucination.weight = 1.0  # lambda of Eq. 3
    # batch: the row itself; augmented: its record, cropped and augmented anew;
    # dataset: another record of its class.
    config.hallucination.seed_source = "batch"
    config.hallucination.from_epoch = 2  # epoch 1 has no confusion yet
    config.hallucination.confusion_fallback = "skip"  # or uniform
    # Hard examples made once, before the first step, and not at every batch: the model
    # of this working directory, stage or checkpoint folder makes them; "": off.
    config.hallucination.frozen_model = ""
    # confusion: classes from that model's own validation; random: any other class.
    config.hallucination.frozen_targets = "confusion"
    config.hallucination.bank_size = 1  # images of each tail record

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or adamw
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4  # on every parameter
    config.optimizer.gradient_clip = config_dict.placeholder(float)

    config.stage1 = ConfigDict()  # plain: no balancer, cross-entropy, no BLT
    config.stage1.epochs = 35  # 0: no first stage
    config.stage1.schedule = "multistep"  # or cosine
    config.stage1.milestones = (25, 32)  # epochs, from 1, that begin with a decay
    config.stage1.decay = 0.1
    config.stage1.warmup_epochs = 0.0
    config.stage1.backbone_lr = 0.1
    config.stage1.head_lr = 0.1
    config.stage1.checkpoint = ""  # take this finished stage 1 instead of training

    config.stage2 = ConfigDict()  # balancer, new head, BLT
    # Or weight_generator: the backbone and head of stage 1; the backbone is frozen, and
    # a generator learns to write the weights of tail classes.
    config.stage2.method = "classifier"
    config.stage2.generator_lr = 0.01
    config.stage2.fake_novel = 0.25  # share of a batch's classes that are generated
    config.stage2.feature_dropout = 0.5
    config.stage2.epochs = 55
    config.stage2.schedule = "multistep"
    config.stage2.milestones = (23, 38, 52)
    config.stage2.decay = 0.1
    config.stage2.warmup_epochs = 0.0
    config.stage2.backbone_lr = 0.01
    config.stage2.head_lr = 0.1
    config.stage2.memory_lr = 0.01  # of the centroids, for head meta_embedding

    config.evaluation = ConfigDict()
    config.evaluation.batch_size = 256
    config.evaluation.many = 100  # many-shot: more training images than this
    config.evaluation.few = 20  # few-shot: at most this many

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = config_dict.placeholder(int)  # besides each epoch
    config.checkpoint.keep = 2  # newest ones kept, besides the best
    config.log_every = 50  # steps
    # Where its numbers go besides metrics.jsonl: "tensorboard", "wandb" or both.
    config.log_sinks = ()
    # A step that gives NaN or infinity stops the run; so many in a row may be left out.
    config.skip_not_finite = 0
    return config.lock()
