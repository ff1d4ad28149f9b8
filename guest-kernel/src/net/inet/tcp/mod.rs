//! TCP (tcp(7)).
//!
//! | module | what it is |
//! | --- | --- |
//! | [`core`] | one connection: smoltcp's state machine behind a wire of ours |
//! | [`sock`] | [`TcpSock`]: a socket, its states as Linux names them, its timer |
//! | [`time_wait`] | what is left of a connection that ended |
//! | [`table`] | which socket a segment is for; ports |
//! | [`listen`] | listeners and what waits at them |
//! | [`stream`] | sending and receiving |
//! | [`protocol`] | all of it as a [`Protocol`](crate::net::socket::Protocol) |
//!
//! A connection stays in the table after its last descriptor went, until the other side has everything
//! and its own end was acknowledged, or has waited long enough.
//!
//! Lock order: the table, then `TcpSock::names`; a socket's `core` is held while segments go out (into a
//! backlog or to a driver), and neither of the others with it.

pub mod core;
pub mod listen;
pub mod protocol;
pub mod sock;
pub mod stream;
pub mod table;
pub mod time_wait;

pub use sock::TcpSock;
