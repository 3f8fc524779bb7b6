//! The session's part of BDAT (RFC 3030), messages that come in chunks. `chunk.rs` reads what is in one.
//!
//! The octets of a refused chunk come all the same: they are read away before its reply, and none is taken for a
//! command.

use super::{Body, Refused, Session, State};
use crate::smtp::chunk::ChunkReader;
use crate::smtp::reply::{self, Reply};
use crate::smtp::transaction::Transaction;
use crate::smtp::{Heard, Step, Turn};

impl Session<'_> {
    pub(super) fn bdat(&mut self, octets: u64, is_last: bool) -> Step {
        if octets >= SMALLEST_CHUNK {
            // A message may have very many chunks; what bounds them is the size limit of the message.
            self.counters.since_message.commands -= 1;
        }
        let (transaction, mut reader) = match std::mem::take(&mut self.state) {
            State::Mail(transaction) if !transaction.recipients.is_empty() => {
                (transaction, ChunkReader::new(self.lines.ending(), self.limits.smtp_data_size.value))
            }
            State::Chunks(transaction, reader) => (transaction, reader),
            other => {
                let reply = self.no_text(&other);
                self.refused = if is_last { Refused::Nothing } else { Refused::Bdat };
                return self.refuse_chunk(other, octets, reply);
            }
        };
        self.refused = Refused::Nothing;
        if !reader.begin(octets, is_last) {
            let limit = &self.limits.smtp_data_size;
            self.refused = if is_last { Refused::Nothing } else { Refused::Bdat };
            let reply = reply::worded(&limit.refusal, reply::MESSAGE_TOO_LARGE);
            return self.refuse_chunk(State::Ready(transaction.hello), octets, reply);
        }
        self.state = State::Data(transaction, Body::Chunks(reader));
        Step::Continue
    }

    /// Refuses a chunk. Its octets are read away; then the state is `behind`.
    pub(super) fn refuse_chunk(&mut self, behind: State, octets: u64, reply: Reply) -> Step {
        self.state = State::Discarding(Box::new(behind), octets, reply);
        Step::Continue
    }

    /// Closes the connection: octets follow that belong to no message, it is not known how many, and none of them may
    /// be taken for a command.
    pub(super) fn bad_chunk(&mut self, reply: Reply) -> Step {
        match &self.state {
            State::Refused(reply) => Step::Close(reply.clone()),
            _ => Step::Close(reply),
        }
    }

    /// Takes a piece of a chunk, and nothing behind the chunk's end.
    pub(super) fn chunk<'i>(
        &mut self,
        transaction: Transaction,
        mut reader: ChunkReader,
        input: &[u8],
        text: &mut Vec<u8>,
    ) -> Turn<'i> {
        let (used, has_ended) = reader.read(input, text);
        let step = match has_ended {
            true => self.end_of_chunk(transaction, reader),
            false => {
                self.state = State::Data(transaction, Body::Chunks(reader));
                Step::Wait
            }
        };
        Turn { used, heard: Heard::Text, step }
    }

    fn end_of_chunk(&mut self, transaction: Transaction, reader: ChunkReader) -> Step {
        if reader.is_last() {
            return self.end_of_message(transaction, reader.text());
        }
        match self.refusal_of(reader.text()) {
            Some(reply) => {
                self.state = State::Ready(transaction.hello);
                self.refused = Refused::Bdat;
                self.fail(reply)
            }
            None => {
                let octets = reader.octets();
                self.state = State::Chunks(transaction, reader);
                Step::Reply(reply::chunk_received(octets))
            }
        }
    }

    /// Reads away a piece of a chunk that is refused.
    pub(super) fn discard<'i>(&mut self, behind: State, left: u64, reply: Reply, input: &[u8]) -> Turn<'i> {
        let used = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let left = left - used as u64;
        if left > 0 {
            self.state = State::Discarding(Box::new(behind), left, reply);
            return Turn { used, heard: Heard::Discarded, step: Step::Wait };
        }
        self.state = behind;
        Turn { used, heard: Heard::Discarded, step: self.fail(reply) }
    }
}

/// Chunks smaller than this count as commands.
const SMALLEST_CHUNK: u64 = 512;
