"""Boxes and masks: torchvision's RetinaNet and Mask R-CNN on any backbone, with the paper's neck (Table 5)."""
