"""What Lightning warns of in every run of a test, and a test may ignore; all else remains an error."""

LIGHTNING_WARNINGS = (
    "ignore:.*treespec.*:FutureWarning",  # Lightning 2.6 asks torch 2.14's pytree in a deprecated way
    "ignore:.*LeafSpec.*:UserWarning",
    "ignore:.*does not have many workers:UserWarning",
    "ignore:Found .* module.* in eval mode:UserWarning",  # the unused parts of the heads are frozen on purpose
)
OWN_CHECKPOINTS = "ignore:Checkpoint directory .* exists and is not empty:UserWarning"  # a run that goes on finds them
LITLOGGER = "ignore:.*litlogger.*:UserWarning"  # a trainer without a logger recommends one
