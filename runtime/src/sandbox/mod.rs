//! Sandboxes: namespaces, the shim (one per pod), container launch.
