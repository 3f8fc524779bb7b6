//! An installation of mailrecv, the super-servers that start it, and the programs that people send mail with. What
//! knows nothing of mailrecv is in testkit/.

pub(crate) mod receiver;
pub(crate) mod sender;
pub(crate) mod super_server;
