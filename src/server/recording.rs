//! What the loop tells the transcript of a session, if there is one. A transcript must not harm its session: if it
//! cannot be written, that is one line in the log, and mail goes on.

use super::End;
use crate::log::{Event, Log};
use crate::transcript::{CLOSED, Entry, Header, Recorder};

/// Where a session is recorded, if it is.
pub(super) struct Recording<'a> {
    recorder: Option<Recorder>,
    log: &'a Log,
}

impl<'a> Recording<'a> {
    /// A session that is not recorded.
    pub(super) fn none(log: &'a Log) -> Self {
        Self { recorder: None, log }
    }

    /// From now on the session is recorded; the header says who the peer is.
    pub(super) fn begin(&mut self, mut recorder: Recorder, header: &Header) {
        recorder.begin(header);
        self.recorder = Some(recorder);
    }

    /// Whether it is recorded.
    pub(super) fn is_on(&self) -> bool {
        self.recorder.is_some()
    }

    /// Calls `record` if the session is recorded, so that entries nobody wants are not made.
    pub(super) fn with(&mut self, record: impl FnOnce(&mut Recorder)) {
        let Some(recorder) = &mut self.recorder else { return };
        record(recorder);
        if recorder.is_full() {
            self.flush();
        }
    }

    /// Writes what was recorded to the file. Recording ends with the first failure, because a transcript must have no
    /// gaps.
    pub(super) fn flush(&mut self) {
        if let Some(Err(error)) = self.recorder.as_mut().map(Recorder::flush) {
            self.recorder = None;
            self.log.event(&Event::NoTranscript(&error));
        }
    }

    /// Records how the session has ended, unless that is known already.
    pub(super) fn note_end(&mut self, end: &End) {
        self.with(|recorder| {
            recorder.note(&Entry::Ended(match end {
                End::Closed => CLOSED.to_owned(),
                End::TimedOut => "the peer's time was over".to_owned(),
                End::Stopped => "we were asked to stop".to_owned(),
                End::PeerGone(how) => how.clone(),
                End::NoKey => "no key for TLS".to_owned(),
                End::NotSecured(why) => format!("no TLS with this peer: {why}"),
            }));
        });
    }
}
