//! What the loop tells the transcript of a session, if there is one. Nothing of that may hurt the session: what cannot be
//! written is one line in the log, and mail goes on.

use super::End;
use crate::log::{Event, Log};
use crate::transcript::{Entry, Header, Recorder};

/// Where a session is recorded, if it is.
pub(super) struct Recording<'a> {
    recorder: Option<Recorder>,
    log: &'a Log,
}

impl<'a> Recording<'a> {
    /// Nowhere.
    pub(super) fn none(log: &'a Log) -> Self {
        Self { recorder: None, log }
    }

    /// There, and this is who the peer is.
    pub(super) fn begin(&mut self, mut recorder: Recorder, header: &Header) {
        recorder.begin(header);
        self.recorder = Some(recorder);
    }

    /// Whether it is recorded.
    pub(super) fn is_on(&self) -> bool {
        self.recorder.is_some()
    }

    /// Records something, which is worded only if it is wanted.
    pub(super) fn with(&mut self, record: impl FnOnce(&mut Recorder)) {
        let Some(recorder) = &mut self.recorder else { return };
        record(recorder);
        if recorder.is_full() {
            self.flush();
        }
    }

    /// Puts what was recorded into the file. What cannot be is the last of it: a transcript has no gaps.
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
                End::Closed => "closed".to_owned(),
                End::TimedOut => "the peer's time was over".to_owned(),
                End::Stopped => "we were asked to stop".to_owned(),
                End::PeerGone(how) => how.clone(),
                End::NoKey => "no key for TLS".to_owned(),
                End::NotSecured(why) => format!("no TLS with this peer: {why}"),
            }));
        });
    }
}
