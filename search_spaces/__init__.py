"""One file per study; its name is what ``--study`` takes."""
