"""Everything on the host: data sets, long-tail profiles, sampling, the batch plan."""
