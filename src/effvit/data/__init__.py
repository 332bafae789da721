"""Pictures to batches: folders of classes, transforms, loaders."""
