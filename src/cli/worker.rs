//! A worker: runtime, images, network, agent, service proxy and tunnels, put together.
