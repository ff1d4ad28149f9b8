//! Unix sockets (unix(7)): streams, datagrams and sequenced packets between processes of one machine.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`sock`] | [`UnixSock`]: one end; its queue and who may fill it |
//! | [`name`] | names: paths, abstract names, and the table of the latter |
//! | [`connect`] | connecting, listening, accepting, pairs |
//! | [`stream`], [`dgram`] | sending and receiving bytes, and messages |
//! | [`scm`] | files in flight (`SCM_RIGHTS`), and finding those that nobody can receive any more |
//! | [`restore`] | sockets of processes that go on from a checkpoint |
//! | [`protocol`] | all of it as a [`Protocol`](super::socket::Protocol) |
//!
//! What is sent lies in the receiver's queue and is charged to the sender until it is read: that, and
//! the limit on messages in a receiver's queue, bounds what a program can make the kernel hold.
//!
//! Lock order: `UnixSock::binding`, then `UnixSock::state`; never the states of two sockets at once.
//! User memory is touched under `UnixSock::reading` only.

pub mod connect;
pub mod dgram;
pub mod name;
pub mod protocol;
pub mod restore;
pub mod scm;
pub mod show;
pub mod sock;
pub mod stream;

pub use name::Names;
pub use protocol::{create, pair};
pub use sock::UnixSock;
