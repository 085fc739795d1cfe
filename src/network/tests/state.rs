//! From Services and EndpointSlices to what the proxy has to do.
