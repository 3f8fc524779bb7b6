//! `exactly_once DIR`: a message that comes again, because its sender does not know that we have it, is not delivered
//! twice.
//!
//! First, [`Once::begin`] looks for records of the message ([`super::records`]), one for each recipient and
//! destination. A record that says "delivered" is proof. A record that only says where the message was about to be is
//! checked there. When the places of the remaining copies are known, and before a reader could find any of them, these
//! places are made durable ([`Once::prepare`]). A destination that cannot be checked gets its record when it has the
//! message ([`Once::is_taken_over`]). After the last step all records say "delivered" ([`Once::commit`]). If this is
//! dropped before, what was prepared is erased.
//!
//! In doubt the message is delivered: trouble with the records never stops a delivery.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::record::{Place, Record, Stretch, Tag};
use super::records::{Found, Records, Repeated};
use super::{Context, LOCK_PATIENCE, eml, maildir};
use crate::address::Mailbox;
use crate::config::{HandOver, Keep};
use crate::log::Event;
use crate::message::{Envelope, Spool};
use crate::metrics::Family;
use crate::smtp::reply::{self, Reply};
use crate::smtp::transaction::Recipient;
use crate::wait::{GivenUp, Pauses};

/// The records of a message for a group of recipients; empty without `exactly_once`.
pub(super) struct Once<'a> {
    context: &'a Context<'a>,
    id: &'a str,
    entries: Vec<Entry<'a>>,
}

/// A message for one recipient at one destination.
struct Entry<'a> {
    recipient: &'a Mailbox,
    destination: Destination<'a>,
    /// The destination as the log writes it.
    shown: String,
    tag: Tag,
    stage: Stage,
    /// What an earlier session has recorded, unless that was "delivered".
    earlier: Option<Found>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination<'a> {
    Keep(&'a Keep),
    HandOver(&'a HandOver),
}

enum Stage {
    /// It has to be delivered.
    New,
    /// It will be at this place, and the record says so.
    Prepared(Place),
    /// It is delivered.
    Delivered,
    /// It had been delivered before, with this identifier.
    Before(String),
}

impl<'a> Once<'a> {
    /// Finds out which copies had been delivered before. If another session is delivering the same message, this waits
    /// for it.
    pub(super) fn begin(
        context: &'a Context<'a>,
        envelope: &'a Envelope<'a>,
        group: &'a [Recipient],
        spool: &Spool,
    ) -> Result<Self, Reply> {
        let mut once = Self { context, id: envelope.id, entries: Vec::new() };
        let (Some(records), Some(text)) = (context.records, spool.hash()) else { return Ok(once) };
        let sender = envelope.transaction.reverse_path.to_string();
        let own_tag = |recipient: &Mailbox, destination: Destination<'_>, shown: &str| {
            let domain = recipient.domain().to_ascii_lowercase();
            // A relative path names another place for a session that is started in another folder.
            let here =
                if destination.is_relative() { std::env::current_dir().unwrap_or_default() } else { PathBuf::new() };
            let parts = [
                text.as_ref(),
                sender.as_bytes(),
                shown.as_bytes(),
                recipient.local_part().as_bytes(),
                domain.as_bytes(),
                here.as_os_str().as_bytes(),
            ];
            records.tag(&parts)
        };
        for Recipient { mailbox: recipient, destinations, .. } in group {
            let keep = destinations.keep.iter().map(|keep| (Destination::Keep(&keep.action), keep.action.facts()));
            let hand_over = destinations.hand_over.iter();
            let hand_over = hand_over.map(|it| (Destination::HandOver(&it.action), it.action.facts()));
            for (destination, facts) in keep.chain(hand_over).filter(|(destination, _)| destination.leaves_something())
            {
                // A `copy` line may name the same place as the `deliver` line.
                if once.entries.iter().any(|known| known.is(recipient, destination)) {
                    continue;
                }
                let shown = facts.to_string();
                let tag = match destination {
                    // Subscribers do not see recipients, so the message is published once for all of them.
                    Destination::HandOver(HandOver::Hpfeeds(_)) => {
                        records.tag(&[text.as_ref(), sender.as_bytes(), shown.as_bytes()])
                    }
                    Destination::HandOver(HandOver::Pipe(..) | HandOver::Amqp(_) | HandOver::Relay(_))
                    | Destination::Keep(_) => own_tag(recipient, destination, &shown),
                };
                once.entries.push(Entry { recipient, destination, shown, tag, stage: Stage::New, earlier: None });
            }
        }
        once.lock(records)?;
        for entry in &mut once.entries {
            match records.find(entry.tag, once.id) {
                Ok(Some(found)) => entry.found(found, context),
                Ok(None) => {}
                Err(error) => tell_failure(context, &error),
            }
        }
        Ok(once)
    }

    /// Locks all tags, so that no other session delivers the same message meanwhile.
    fn lock(&self, records: &Records) -> Result<(), Reply> {
        let mut tags: Vec<Tag> = self.entries.iter().map(|entry| entry.tag).collect();
        // All sessions lock them in this order, so that no two wait for each other.
        tags.sort_unstable();
        tags.dedup();
        let deadline = self.context.deadline.min(Instant::now() + LOCK_PATIENCE);
        let mut pauses = Pauses::until(deadline, self.context.signals);
        for tag in tags {
            loop {
                match records.try_lock(tag) {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => {
                        tell_failure(self.context, &error);
                        break;
                    }
                }
                match pauses.pause() {
                    Ok(()) => {}
                    Err(GivenUp::TimedOut) => {
                        return Err(reply::message_busy("another session delivers this very message".to_owned()));
                    }
                    Err(GivenUp::Stopped) => {
                        let waiting = "while waiting for another session that delivers this very message";
                        return Err(reply::shutting_down(&self.context.config.domain).because(waiting));
                    }
                }
            }
        }
        Ok(())
    }

    /// If nothing is left to deliver, the identifier that the message had when it was delivered.
    pub(super) fn all_before(&self) -> Option<&str> {
        let before = self.entries.iter().map(|entry| match &entry.stage {
            Stage::Before(first) => Some(first.as_str()),
            Stage::New | Stage::Prepared(_) | Stage::Delivered => None,
        });
        before.reduce(|one, other| one.and(other))?
    }

    /// Whether this recipient's copy had been delivered there before.
    pub(super) fn is_kept(&self, recipient: &Mailbox, action: &Keep) -> bool {
        self.is_before(recipient, Destination::Keep(action))
    }

    /// Whether this recipient's copy had been handed over there before.
    pub(super) fn is_handed_over(&self, recipient: &Mailbox, action: &HandOver) -> bool {
        self.is_before(recipient, Destination::HandOver(action))
    }

    /// The tag that identifies the message for this recipient, for a command's environment; empty without
    /// `exactly_once`.
    pub(super) fn hash(&self, recipient: &Mailbox, action: &HandOver) -> String {
        let mut entries = self.entries.iter();
        let known = entries.find(|entry| entry.is(recipient, Destination::HandOver(action)));
        known.map(|entry| entry.tag.hex()).unwrap_or_default()
    }

    fn is_before(&self, recipient: &Mailbox, destination: Destination<'_>) -> bool {
        self.entries.iter().any(|entry| entry.is(recipient, destination) && matches!(entry.stage, Stage::Before(_)))
    }

    /// Notes where the copy of these recipients will be.
    pub(super) fn note<'m>(&mut self, recipients: impl Iterator<Item = &'m Mailbox>, action: &Keep, place: &Place) {
        for recipient in recipients {
            self.of(recipient, Destination::Keep(action))
                .for_each(|entry| entry.stage = Stage::Prepared(place.clone()));
        }
    }

    /// Whether this recipient's copy is complete in a mailbox where an earlier session was about to put it; `look`
    /// examines the mailbox. It also gets whether no answer can have been sent for that copy.
    pub(super) fn look(
        &mut self,
        recipient: &Mailbox,
        action: &Keep,
        look: impl FnOnce(&Stretch, bool) -> Result<bool, Reply>,
    ) -> Result<bool, Reply> {
        let Some(entry) = self.of(recipient, Destination::Keep(action)).next() else { return Ok(false) };
        let (Stage::New, Some(Found { record, is_of_this_boot })) = (&entry.stage, &entry.earlier) else {
            return Ok(false);
        };
        let Place::Mailbox(stretch) = &record.place else { return Ok(false) };
        let is_there = look(stretch, *is_of_this_boot)?;
        if is_there {
            entry.stage = Stage::Before(record.id.clone());
        }
        Ok(is_there)
    }

    /// Makes the noted places durable.
    pub(super) fn prepare(&mut self) {
        let Some(records) = self.context.records else { return };
        let written = self.entries.iter().try_for_each(|entry| match &entry.stage {
            Stage::Prepared(place) => entry.write(records, &self.record(place.clone(), false)),
            Stage::New | Stage::Delivered | Stage::Before(_) => Ok(()),
        });
        self.tolerate(written.and_then(|()| records.sync()));
    }

    /// Makes durable that the destination which cannot take it back has the message for these recipients.
    pub(super) fn is_taken_over(&mut self, recipients: &[&Mailbox], action: &HandOver) {
        let Some(records) = self.context.records else { return };
        let mut written = Ok(());
        let record = Record { id: self.id.to_owned(), is_delivered: true, place: Place::Nowhere };
        for recipient in recipients {
            for entry in self.of(recipient, Destination::HandOver(action)) {
                entry.stage = Stage::Delivered;
                written = written.and(entry.write(records, &record));
            }
        }
        self.tolerate(written.and_then(|()| records.sync()));
    }

    /// Everything is delivered.
    pub(super) fn commit(mut self) {
        let Some(records) = self.context.records else { return };
        let mut written = Ok(());
        for entry in &mut self.entries {
            let place = match std::mem::replace(&mut entry.stage, Stage::Delivered) {
                Stage::Before(first) => {
                    entry.stage = Stage::Before(first);
                    continue;
                }
                Stage::Delivered => None,
                Stage::New => Some(Place::Nowhere),
                Stage::Prepared(place) => Some(place),
            };
            if let Some(place) = place {
                // A power cut may lose this record; then the prepared one is found, and the place it names is checked.
                let record = Record { id: self.id.to_owned(), is_delivered: true, place };
                written = written.and(entry.write(records, &record));
            }
            records.set_unconfirmed(entry.tag, self.id, self.id);
        }
        self.tolerate(written);
        self.tell();
    }

    /// Tells the log which deliveries had been done before. From now on there is an answer for them.
    pub(super) fn tell(&self) {
        let Some(records) = self.context.records else { return };
        for entry in &self.entries {
            if let Stage::Before(first) = &entry.stage {
                if let Some(Found { record, .. }) = &entry.earlier {
                    self.tolerate(entry.write(records, &Record { is_delivered: true, ..record.clone() }));
                }
                let (to, action, first) = (entry.recipient.to_string(), entry.shown.clone(), first.clone());
                // The sender gets another 250 for it, which may be lost too.
                records.set_unconfirmed(entry.tag, &first, self.id);
                records.add_repeated(Repeated { to, action, first });
            }
        }
    }

    fn record(&self, place: Place, is_delivered: bool) -> Record {
        Record { id: self.id.to_owned(), is_delivered, place }
    }

    fn of<'s>(
        &'s mut self,
        recipient: &'s Mailbox,
        destination: Destination<'s>,
    ) -> impl Iterator<Item = &'s mut Entry<'a>> {
        self.entries.iter_mut().filter(move |entry| entry.is(recipient, destination))
    }

    /// A message that cannot be recorded is delivered all the same.
    fn tolerate(&self, written: io::Result<()>) {
        if let Err(error) = written {
            tell_failure(self.context, &error);
        }
    }
}

impl Drop for Once<'_> {
    fn drop(&mut self) {
        let Some(records) = self.context.records else { return };
        // What could not be taken back is looked for when the message comes again.
        let is_taken_back = !records.take_left_behind();
        for entry in &self.entries {
            if let (Stage::Prepared(_), true) = (&entry.stage, is_taken_back) {
                // If the record stays, the next session checks its place and finds nothing.
                let _ = records.erase(entry.tag, self.id);
            }
            records.unlock(entry.tag);
        }
    }
}

impl Entry<'_> {
    fn is(&self, recipient: &Mailbox, destination: Destination<'_>) -> bool {
        self.destination == destination && self.recipient == recipient
    }

    /// Takes a record of this delivery into account.
    fn found(&mut self, found: Found, context: &Context<'_>) {
        let Record { id, is_delivered, place } = &found.record;
        let is_there = *is_delivered
            || match (self.destination, place) {
                (Destination::Keep(Keep::Maildir(folder)), Place::File { name, before }) => {
                    tolerated(maildir::has(context.log, Path::new(folder), name, before), context)
                }
                (Destination::Keep(Keep::Eml(folder)), Place::File { name, before }) => {
                    tolerated(eml::has(context.log, Path::new(folder), name, before), context)
                }
                // A mailbox is checked when it is locked; other destinations cannot be checked.
                (Destination::Keep(_) | Destination::HandOver(_), _) => false,
            };
        if is_there {
            self.stage = Stage::Before(id.clone());
        }
        self.earlier = (!is_delivered).then_some(found);
    }

    /// Writes a record of this delivery, in the place of what an earlier session has recorded.
    fn write(&self, records: &Records, record: &Record) -> io::Result<()> {
        records.write(self.tag, record, self.earlier.as_ref().map(|earlier| earlier.record.id.as_str()))
    }
}

fn tell_failure(context: &Context<'_>, error: &io::Error) {
    if context.records.is_some_and(Records::note_failure) {
        context.tally.count(Family::NotExactlyOnce.counter());
    }
    context.log.event_once(&Event::NoRecords(error));
}

/// Whether the message was found; an error counts as no.
fn tolerated(looked: io::Result<bool>, context: &Context<'_>) -> bool {
    looked.unwrap_or_else(|error| {
        tell_failure(context, &error);
        false
    })
}

impl Destination<'_> {
    /// Whether this is a file or a folder that is named from the current folder.
    fn is_relative(self) -> bool {
        match self {
            Destination::Keep(Keep::Maildir(path) | Keep::Eml(path) | Keep::Append(path)) => {
                Path::new(path).is_relative()
            }
            Destination::Keep(Keep::Print(_) | Keep::Discard) | Destination::HandOver(_) => false,
        }
    }

    /// Whether this destination leaves the message anywhere.
    fn leaves_something(self) -> bool {
        match self {
            Destination::Keep(Keep::Maildir(_) | Keep::Eml(_) | Keep::Print(_) | Keep::Append(_)) => true,
            Destination::Keep(Keep::Discard) => false,
            Destination::HandOver(
                HandOver::Pipe(..) | HandOver::Hpfeeds(_) | HandOver::Amqp(_) | HandOver::Relay(_),
            ) => true,
        }
    }
}
