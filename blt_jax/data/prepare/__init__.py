"""From what a site ships (archives, folders, lists) to list files and their images."""
