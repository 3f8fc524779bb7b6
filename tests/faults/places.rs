//! Destinations of every kind in a folder of their own, what was in them before, and how what is in them now is judged:
//! on the disk, or on what a power cut would have left of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use testkit::TlsClient;
use testkit::client::{Reply, on_the_wire};
use testkit::upstream::Upstream;

use crate::client::{Lost, Session, offer_tls};
use crate::letters::{Copy, Format, Letter, examine, without_separator};
use crate::readers;
use crate::support::{CONFIG, Scratch};

/// One destination; the recipient of this name leads there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An mbox with a message in it.
    Mbox,
    /// An mbox that is not there yet.
    NewMbox,
    /// An mbox that ends in the middle of a message, after a crash.
    TornMbox,
    /// A maildir with a message in it.
    Maildir,
    /// A maildir that is not there yet.
    NewMaildir,
    /// A folder with a file for each message, which is not there yet.
    Files,
    /// A command that keeps the message as it would stand in a mailbox.
    Command,
    /// A command that keeps the message as it is.
    RawCommand,
    /// A command that reads the message and does not want it.
    Refusing,
    /// A device that never has room.
    Full,
    /// A command that reads nothing, and does not end in the time that it has.
    Hanging,
    /// The next server.
    Relay,
}

/// A folder with all places, of which a delivery uses some, and the configuration that leads to them.
pub struct Destinations {
    pub scratch: Scratch,
    letters: Vec<Letter>,
    /// The server that [`Place::Relay`] leads to.
    upstream: Upstream,
    /// What messages are sent under TLS with, if they are.
    tls: Option<TlsClient>,
}

/// The files below the folder of the destinations, by their paths in it.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// What there is at some places.
#[derive(Debug, Default)]
pub struct Sight {
    /// Whole copies: the number of the message, and where.
    pub whole: Vec<(u64, Place)>,
    /// Parts of messages: of which one if that can be told, and where.
    pub torn: Vec<(Option<u64>, Place, String)>,
    /// Files in the `tmp` of a maildir, and those in a folder of files that have no name for good yet.
    pub waiting: Vec<PathBuf>,
    /// What was there before and is not as it was; what nobody sent.
    pub problems: Vec<String>,
}

/// How one attempt to deliver a message ended.
#[derive(Debug)]
pub struct Attempt {
    /// The reply to the message or to the first command that was refused; none if the connection ended before.
    pub answer: Result<Reply, Lost>,
    /// The exit status of what was started; 128 + N after a signal N.
    pub status: i32,
}

impl Destinations {
    /// The places as they are before anything is delivered.
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let destinations = Self { scratch, letters: Vec::new(), upstream: Upstream::polite(), tls: None };
        let mail = destinations.mail();
        fs::create_dir(&mail).expect("a folder");
        fs::create_dir(destinations.scratch.path("spool")).expect("a folder");
        let mut config = format!(
            "domain receiver.example\nspool_dir {}\nmetrics_file {}\nlimit.pipe_secs 5\n",
            destinations.scratch.path("spool").display(),
            // What goes wrong with it is nothing to the mail.
            destinations.scratch.path("metrics").display()
        );
        for place in ALL {
            place.prepare(&mail);
            let action = match place {
                Place::Relay => format!("relay smtp://{}", destinations.upstream.address),
                place => place.action(&mail),
            };
            writeln!(config, "deliver rcpt_to {}@receiver.example {action}", place.name()).unwrap();
        }
        destinations.scratch.write(CONFIG, config);
        destinations
    }

    /// The same, for messages under TLS.
    pub fn under_tls(self) -> Self {
        let mut config = self.scratch.read(CONFIG);
        let tls = Some(offer_tls(&self.scratch, &mut config));
        self.scratch.write(CONFIG, config);
        Self { tls, ..self }
    }

    /// The same, with `exactly_once`. Its table is there already, for the most part as a hole.
    pub fn exactly_once(self) -> Self {
        static BEGINNING: LazyLock<(Vec<u8>, u64)> = LazyLock::new(|| {
            let scratch = Scratch::with_config("domain receiver.example\nexactly_once once\n");
            let session = Session::start(&scratch.path(CONFIG), &[]);
            session.quit().expect("a session");
            let table = fs::read(scratch.path("once/records")).expect("a table");
            (table[..4096].to_vec(), table.len() as u64)
        });
        let (folder, table) = (self.mail().join(ONCE), self.mail().join(ONCE).join("records"));
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("a mode");
        fs::write(&table, &BEGINNING.0).expect("a table");
        fs::set_permissions(&table, fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::File::options().write(true).open(&table).and_then(|file| file.set_len(BEGINNING.1)).expect("a table");
        let config = self.scratch.read(CONFIG) + &format!("exactly_once {}\n", folder.display());
        self.scratch.write(CONFIG, config);
        self
    }

    /// The folder that everything is delivered into.
    pub fn mail(&self) -> PathBuf {
        self.scratch.path("mail")
    }

    /// A message to these places, so large.
    pub fn letter(&mut self, places: &[Place], size: usize) -> Letter {
        let number = 10 + u64::try_from(self.letters.len()).unwrap();
        let recipients = places.iter().map(|place| place.name()).collect();
        self.letters.push(Letter { number, size, recipients });
        self.letters.last().unwrap().clone()
    }

    /// Sends a message in a session of its own, and waits until everything that has to do with it has ended.
    pub fn deliver(&self, letter: &Letter, wrapper: &[String]) -> Attempt {
        let mut session = Session::start(&self.scratch.path(CONFIG), wrapper);
        if let Some(tls) = &self.tls {
            session = session.secured(tls);
        }
        let addresses = letter.addresses();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let answer = session.send_message(&letter.sender(), &addresses, &letter.text());
        // What it says to that, if it is still there, is of no interest here.
        let _ = session.ask("QUIT");
        let status = session.wait();
        let commands = [Place::Command, Place::RawCommand, Place::Refusing, Place::Hanging].map(Place::name);
        if letter.recipients.iter().any(|name| commands.contains(name)) {
            readers::wait_for_processes(&self.scratch);
        }
        Attempt { answer, status }
    }

    /// What is on the disk now.
    pub fn tree(&self) -> Tree {
        tree_of(&self.mail())
    }

    /// Looks at the places.
    pub fn look(&self, tree: &Tree, places: &[Place]) -> Sight {
        let mut sight = Sight::default();
        for place in places {
            match place {
                Place::Mbox | Place::NewMbox | Place::TornMbox => self.look_into_mbox(tree, *place, &mut sight),
                Place::Maildir | Place::NewMaildir => self.look_into_maildir(tree, *place, &mut sight),
                Place::Files => {
                    for (_, content) in files_in(tree, place.name()) {
                        self.judge(content, Format::Bare, *place, &mut sight);
                    }
                    let is_waiting = |path: &&PathBuf| path.starts_with(place.name()) && is_hidden(path);
                    sight.waiting.extend(tree.keys().filter(is_waiting).cloned());
                }
                Place::Command | Place::RawCommand => {
                    let format = if *place == Place::Command { Format::Mboxrd } else { Format::Bare };
                    for (_, content) in files_in(tree, place.name()) {
                        self.judge(without_separator(content, format), format, *place, &mut sight);
                    }
                }
                Place::Relay => self.look_at_upstream(&mut sight),
                Place::Refusing | Place::Full | Place::Hanging => {}
            }
        }
        sight
    }

    /// It has the message as it was on the wire, behind the trace that we put in front.
    fn look_at_upstream(&self, sight: &mut Sight) {
        for message in self.upstream.messages() {
            let letter =
                self.letters.iter().find(|letter| message.sender.starts_with(&format!("<{}>", letter.sender())));
            let Some(letter) = letter else {
                sight.problems.push(format!("the upstream has a message from {}", message.sender));
                continue;
            };
            let lines = message.text.split_inclusive(|byte| *byte == b'\n');
            // The Received field ends with the line that has the date in it.
            let trace = lines.take_while(|line| !line.windows(2).any(|two| two == b"; "));
            let date_at: usize = trace.map(<[u8]>::len).sum();
            let text = message.text[date_at..].iter().position(|byte| *byte == b'\n').map(|at| date_at + at + 1);
            match text.is_some_and(|at| message.text[at..] == on_the_wire(&letter.text())) {
                true => sight.whole.push((letter.number, Place::Relay)),
                false => sight.torn.push((Some(letter.number), Place::Relay, "it is not what was sent".to_owned())),
            }
        }
    }

    fn look_into_mbox(&self, tree: &Tree, place: Place, sight: &mut Sight) {
        let content = tree.get(Path::new(place.name())).map_or(&b""[..], |content| content);
        let Some(added) = content.strip_prefix(place.before().unwrap_or_default()) else {
            sight.problems.push(format!("what was in {} before is not there any more", place.name()));
            return;
        };
        // The line ends that close off a torn message come with the message behind it, or not at all; who is killed between
        // the two leaves them behind.
        let message = added.iter().position(|byte| *byte != b'\n').unwrap_or(added.len());
        if message == added.len() && message > 0 {
            sight.torn.push((None, place, "the line ends in front of it".to_owned()));
        }
        if message < added.len() && !content[..content.len() - added.len() + message].ends_with(place.end_before()) {
            sight.problems.push(format!("in {} the message is joined to what was there before", place.name()));
        }
        for chunk in split_mbox(&added[message..]) {
            match chunk.strip_suffix(b"\n") {
                Some(message) if chunk.ends_with(b"\n\n") => self.judge(message, Format::Mboxrd, place, sight),
                // Without its empty line a message is not whole.
                _ => sight.torn.push((None, place, String::from_utf8_lossy(chunk).into_owned())),
            }
        }
    }

    fn look_into_maildir(&self, tree: &Tree, place: Place, sight: &mut Sight) {
        let name = place.name();
        if place == Place::Maildir && tree.get(&Path::new(name).join("new").join(OLD_NAME)).is_none_or(|old| old != OLD)
        {
            sight.problems.push(format!("what was in {name} before is not there any more"));
        }
        for folder in ["new", "cur"] {
            for (path, content) in files_in(tree, &format!("{name}/{folder}")) {
                if path.ends_with(OLD_NAME) {
                    continue;
                }
                self.judge(content, Format::Bare, place, sight);
                if !path.to_string_lossy().ends_with(&format!(",S={}", content.len())) {
                    sight.problems.push(format!("{} has {} bytes", path.display(), content.len()));
                }
            }
        }
        sight.waiting.extend(files_in(tree, &format!("{name}/tmp")).map(|(path, _)| path.clone()));
    }

    fn judge(&self, content: &[u8], format: Format, place: Place, sight: &mut Sight) {
        match examine(content, format, |number| self.letters.iter().find(|letter| letter.number == number)) {
            Copy::Whole { number, recipients } if recipients == [place.name()] => sight.whole.push((number, place)),
            Copy::Whole { recipients, .. } => {
                sight.problems.push(format!("a message for {recipients:?} is in {}", place.name()));
            }
            Copy::Beginning { number, .. } => sight.torn.push((number, place, "its beginning".to_owned())),
            Copy::Mangled { number, about } => sight.torn.push((number, place, about)),
        }
    }
}

impl Sight {
    /// How many whole copies of a message are at a place.
    pub fn count(&self, number: u64, place: Place) -> usize {
        self.whole.iter().filter(|copy| **copy == (number, place)).count()
    }
}

impl Attempt {
    /// Whether the message got its 250.
    pub fn accepted(&self) -> bool {
        matches!(&self.answer, Ok(reply) if reply.starts_with("250"))
    }

    /// The answer in words.
    pub fn answer(&self) -> String {
        self.answer.as_ref().map_or_else(ToString::to_string, ToString::to_string)
    }
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Place::Mbox => "mbox",
            Place::NewMbox => "new-mbox",
            Place::TornMbox => "torn-mbox",
            Place::Maildir => "maildir",
            Place::NewMaildir => "new-maildir",
            Place::Files => "files",
            Place::Command => "command",
            Place::RawCommand => "raw-command",
            Place::Refusing => "refusing",
            Place::Full => "full",
            Place::Hanging => "hanging",
            Place::Relay => "relay",
        }
    }

    /// Whether a message can be delivered here at all.
    pub fn accepts(self) -> bool {
        !matches!(self, Place::Refusing | Place::Full | Place::Hanging)
    }

    /// What has to be in front of the first new message in an mbox: the empty line behind the last one.
    fn end_before(self) -> &'static [u8] {
        if self == Place::NewMbox { b"" } else { b"\n\n" }
    }

    /// Folders that a maildir does not have, although a message was delivered into it.
    pub fn missing_folders(self, mail: &Path) -> Vec<PathBuf> {
        let folders = match self {
            Place::Maildir | Place::NewMaildir => {
                ["tmp", "new", "cur"].map(|name| mail.join(self.name()).join(name)).to_vec()
            }
            _ => Vec::new(),
        };
        folders.into_iter().filter(|folder| !folder.is_dir()).collect()
    }

    fn action(self, mail: &Path) -> String {
        let path = mail.join(self.name());
        let path = path.display();
        match self {
            Place::Mbox | Place::NewMbox | Place::TornMbox => format!("append {path}"),
            Place::Maildir | Place::NewMaildir => format!("maildir {path}"),
            Place::Files => format!("eml {path}"),
            Place::Command | Place::RawCommand => {
                let action = if self == Place::Command { "pipe" } else { "pipe_raw" };
                format!("{action} cat >{path}/.$MESSAGE_ID && mv {path}/.$MESSAGE_ID {path}/$MESSAGE_ID")
            }
            Place::Refusing => "pipe cat >/dev/null; exit 75".to_owned(),
            Place::Full => "append /dev/full".to_owned(),
            Place::Hanging => "pipe sleep 30".to_owned(),
            Place::Relay => unreachable!("where the server is, the destinations know"),
        }
    }

    fn prepare(self, mail: &Path) {
        let path = mail.join(self.name());
        match self {
            Place::Mbox | Place::TornMbox => {
                fs::write(path, self.before().unwrap_or_default()).expect("writing an mbox")
            }
            Place::Maildir => {
                for folder in ["tmp", "new", "cur"] {
                    fs::create_dir_all(path.join(folder)).expect("a folder");
                }
                fs::write(path.join("new").join(OLD_NAME), OLD).expect("writing a message");
            }
            Place::Command | Place::RawCommand => fs::create_dir(path).expect("a folder"),
            Place::NewMbox
            | Place::NewMaildir
            | Place::Files
            | Place::Refusing
            | Place::Full
            | Place::Hanging
            | Place::Relay => {}
        }
    }

    /// What has been in the file before, if the place is a file.
    pub fn before(self) -> Option<&'static [u8]> {
        match self {
            Place::Mbox => Some(b"From old@client.example Sat Nov 21 01:32:50 2026\nSubject: old\n\nold\n\n"),
            Place::TornMbox => {
                Some(b"From old@client.example Sat Nov 21 01:32:50 2026\nSubject: old\n\ntorn in the mid")
            }
            Place::NewMbox => Some(b""),
            _ => None,
        }
    }
}

/// The files below a folder.
pub fn tree_of(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    collect(folder, Path::new(""), &mut tree);
    tree
}

fn collect(folder: &Path, name: &Path, tree: &mut Tree) {
    for path in readers::files_in(folder) {
        let name = name.join(path.file_name().expect("a name"));
        if path.is_dir() {
            collect(&path, &name, tree);
        } else if let Ok(content) = fs::read(&path) {
            tree.insert(name, content);
        }
    }
}

/// The files in a folder, but for those whose names begin with a dot.
fn files_in<'t>(tree: &'t Tree, folder: &str) -> impl Iterator<Item = (&'t PathBuf, &'t Vec<u8>)> {
    tree.iter().filter(move |(path, _)| path.parent() == Some(Path::new(folder)) && !is_hidden(path))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// The messages of an mboxrd file: there, every line that begins with `From ` begins a message.
fn split_mbox(content: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if at > start && line.starts_with(b"From ") {
            messages.push(&content[start..at]);
            start = at;
        }
        at += line.len();
    }
    if start < content.len() {
        messages.push(&content[start..]);
    }
    messages
}

const ALL: [Place; 12] = [
    Place::Mbox,
    Place::NewMbox,
    Place::TornMbox,
    Place::Maildir,
    Place::NewMaildir,
    Place::Files,
    Place::Command,
    Place::RawCommand,
    Place::Refusing,
    Place::Full,
    Place::Hanging,
    Place::Relay,
];

/// The folder of `exactly_once`.
pub const ONCE: &str = "once";

/// A message that is in the maildir before, and its name.
const OLD: &[u8] = b"Subject: old\n\nold\n";
const OLD_NAME: &str = "1795224770.M000001P1V0I0_0.old,S=18";
