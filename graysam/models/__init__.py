"""Networks: image encoders on timm, SAM's prompt encoder and mask decoder, and the loading of weights."""
