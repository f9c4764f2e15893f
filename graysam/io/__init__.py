"""Files in, files out: images, boxes and masks."""
