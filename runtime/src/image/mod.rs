//! Images: reference, content store, import, pull, unpack.
