"""Questions that take many trainings: each is one function over a folder that keeps what is finished."""
