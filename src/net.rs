//! Addresses, networks, hosts and listening sockets, and the limits and rules that depend on the network of a client.

pub mod addr;
pub mod by_listener;
pub mod cidr;
pub mod conn_limit;
pub(crate) mod fair_queue;
pub(crate) mod fair_share;
pub mod host;
pub mod host_map;
pub mod listener;
pub mod network_policy;
pub mod proxy_protocol;
