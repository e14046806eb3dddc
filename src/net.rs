//! Addresses, networks, hosts, listening sockets, and what the proxy decides by the network of a client.

pub mod addr;
pub mod cidr;
pub mod conn_limit;
pub(crate) mod fair_queue;
pub(crate) mod fair_share;
pub mod host;
pub mod listener;
pub mod network_policy;
pub mod proxy_protocol;
