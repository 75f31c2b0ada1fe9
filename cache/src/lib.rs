//! The store of sd3pipe: what was made, from what, and where it lies.
