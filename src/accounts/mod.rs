//! Who may log in, with which password: a file of names and hashes, and those whom the configuration names.
//!
//! A line is `NAME:HASH`; empty lines and those that begin with `#` say nothing. The file is opened while we may still
//! open it, and read when a peer asks to log in.

pub mod hash;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use anyhow::{Context, bail};
use subtle::ConstantTimeEq;

use crate::scram_keys::{self, ScramKeys, mac};
use crate::unread::Unread;
use crate::untrusted::is_invisible;
use hash::Hash;

/// Everybody who has an account.
#[derive(Debug, Default)]
pub struct Accounts {
    /// The file, opened and not read yet.
    file: Option<Unread>,
    /// Who has an account whatever the file says.
    users: Vec<User>,
}

/// Somebody whose password is in the configuration.
struct User {
    name: String,
    /// A hash of the password: all of them are equally long, and can be compared without telling how much fits.
    password: scram_keys::Key,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl Accounts {
    /// Opens the file, if there is one. What cannot be opened is told when it is needed.
    pub fn open(path: Option<&Path>) -> Self {
        Self { file: path.map(Unread::open), users: Vec::new() }
    }

    /// The same, and these users with their passwords. Of two with one name the first counts, and before one of the file.
    pub fn with_users<'u>(self, users: impl Iterator<Item = (&'u str, &'u str)>) -> Self {
        let user =
            |(name, password): (&str, &str)| User { name: name.to_owned(), password: of_user(password.as_bytes()) };
        Self { users: users.map(user).collect(), ..self }
    }

    /// Whether SCRAM-SHA-256 can be offered: clients prefer it, so it must not fail for somebody whose password is kept
    /// in another way. If the file cannot be read, it is not offered. Nor with users of the configuration: their salts would
    /// have to be made of what everybody can know, or of the password, and then whoever asks for one could try passwords
    /// by himself.
    pub fn takes_scram(&self) -> bool {
        self.users.is_empty() && self.parsed(|list| Ok(list.takes_scram())).unwrap_or(false)
    }

    /// Whether this is the password of this account. Who has none costs the same as a wrong password. An error is our own
    /// fault: the file cannot be read, or what it says of this account cannot be used.
    pub fn is_password(&self, name: &str, password: &[u8]) -> anyhow::Result<bool> {
        // The file is asked about everybody, so that who is in it takes no longer than who is not.
        let is_asked = self.file.is_some() || self.users.is_empty();
        let in_file = is_asked.then(|| self.parsed(|list| list.is_password(name, password)));
        let typed = of_user(password);
        let mut of_users = self.users.iter().map(|user| (user.name == name, bool::from(user.password.ct_eq(&typed))));
        match of_users.find(|(is_name, _)| *is_name) {
            Some((_, is_password)) => Ok(is_password),
            None => in_file.unwrap_or(Ok(false)),
        }
    }

    /// The keys of this account. For a name that has none they are made up, and always the same, so that nobody can find
    /// out who has an account. Errors as those of [`Accounts::is_password`].
    pub fn scram_keys(&self, name: &str) -> anyhow::Result<ScramKeys> {
        self.parsed(|list| list.scram_keys(name))
    }

    fn parsed<T>(&self, ask: impl FnOnce(List<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.file.as_ref().context("there is no file of accounts")?.parsed(|text| ask(List(text)))
    }
}

/// What the file of accounts is like.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// How many accounts can be used.
    pub(crate) accounts: usize,
    /// How many of these have keys of SCRAM.
    pub(crate) with_scram: usize,
    /// What is wrong, in the order of the file.
    pub(crate) mistakes: Vec<Mistake>,
}

/// What is wrong with a line of the file.
#[derive(Debug)]
pub(crate) struct Mistake {
    /// The line, counted from 1.
    pub(crate) line: u32,
    /// The column of what is wrong in `shown`, counted from 1, and how many characters that has.
    pub(crate) column: usize,
    /// See `column`.
    pub(crate) width: usize,
    /// What is wrong.
    pub(crate) message: String,
    /// The line without its secret.
    pub(crate) shown: String,
}

/// Reads the file as a session does and looks at every line; an error if it cannot be read.
pub(crate) fn check(path: &Path) -> anyhow::Result<Checked> {
    let text = Unread::open(path).read()?;
    let (mut checked, mut names) = (Checked::default(), HashSet::new());
    for (line, number) in List(&text).lines().zip(1..) {
        let (name, wrong) = match line {
            Line::Nothing => continue,
            Line::Account(Account { name, hash }) => {
                if !names.insert(name) {
                    (name, Wrong::Name("this account is there already: the first line counts, remove one".to_owned()))
                } else if let Some(why) = misnamed(name) {
                    (name, Wrong::Name(why.to_owned()))
                } else {
                    match Hash::parse(hash) {
                        Ok(hash) => {
                            checked.accounts += 1;
                            checked.with_scram += usize::from(matches!(hash, Hash::Scram(_)));
                            continue;
                        }
                        Err(why) => (name, Wrong::Hash(why.to_string())),
                    }
                }
            }
            Line::Other(beginning) => (
                beginning,
                Wrong::Hash("a colon and a hash are missing: make a line with `mailrecv passwd NAME`".to_owned()),
            ),
        };
        let length = name.chars().count();
        let (shown, column, width, message) = match wrong {
            Wrong::Name(message) => (format!("{name}:..."), 1, length, message),
            Wrong::Hash(message) => (format!("{name}:..."), length + 2, 3, message),
        };
        checked.mistakes.push(Mistake { line: number, column, width, message, shown });
    }
    Ok(checked)
}

/// Which part of a line is wrong.
enum Wrong {
    Name(String),
    Hash(String),
}

/// Why nobody can have this name.
pub(crate) fn misnamed(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("a name is missing");
    }
    if name.contains(|c: char| c == ':' || c.is_whitespace() || is_invisible(c)) {
        return Some("a name has no colon, no blanks and nothing that cannot be seen");
    }
    name.starts_with('#').then_some("a line that begins with `#` is a comment, so no name does")
}

/// The text of the file.
#[derive(Debug, Clone, Copy)]
struct List<'t>(&'t [u8]);

/// A line of the file.
#[derive(Debug, Clone, Copy)]
enum Line<'t> {
    /// Empty, or a comment.
    Nothing,
    Account(Account<'t>),
    /// Something else, and how it begins.
    Other(&'t str),
}

/// A name, and what is kept of the password.
#[derive(Debug, Clone, Copy)]
struct Account<'t> {
    name: &'t str,
    hash: &'t str,
}

impl<'t> List<'t> {
    fn lines(self) -> impl Iterator<Item = Line<'t>> {
        self.0.split(|octet| *octet == b'\n').map(|line| {
            let line = line.trim_ascii_end();
            if line.is_empty() || line.starts_with(b"#") {
                return Line::Nothing;
            }
            let text = match std::str::from_utf8(line) {
                Ok(text) => text,
                Err(error) => std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default(),
            };
            match text.split_once(':').filter(|_| text.len() == line.len()) {
                Some((name, hash)) => Line::Account(Account { name, hash }),
                None => Line::Other(text.split([':', ' ', '\t']).next().unwrap_or_default()),
            }
        })
    }

    /// The accounts, in the order of the file.
    fn accounts(self) -> impl Iterator<Item = Account<'t>> {
        self.lines().filter_map(|line| match line {
            Line::Account(account) => Some(account),
            Line::Nothing | Line::Other(_) => None,
        })
    }

    fn takes_scram(self) -> bool {
        // Whose line is damaged cannot log in by any mechanism, and takes none from the others.
        let mut hashes = self.accounts().filter_map(|account| Hash::parse(account.hash).ok()).peekable();
        hashes.peek().is_some() && hashes.all(|hash| matches!(hash, Hash::Scram(_)))
    }

    fn is_password(self, name: &str, password: &[u8]) -> anyhow::Result<bool> {
        let (hash, is_known) = self.hash_to_try(name)?;
        let is_of = hash.is_of(password).with_context(|| of_account(name))?;
        Ok(is_of && is_known)
    }

    fn scram_keys(self, name: &str) -> anyhow::Result<ScramKeys> {
        match self.hash_to_try(name)? {
            (Hash::Scram(keys), true) => Ok(keys),
            (Hash::Scram(like), false) => Ok(self.made_up(name, like)),
            _ => bail!("{} has no keys of SCRAM-SHA-256", of_account(name)),
        }
    }

    /// What a password is held against, and whether this is somebody's: for a name that has no account it is that of
    /// another, which costs as much. An error where nobody has one: a file that was cut off is no fault of who is missing.
    fn hash_to_try(self, name: &str) -> anyhow::Result<(Hash, bool)> {
        let stand_in = self.stand_in(name);
        match self.find(name) {
            Some(hash) => Ok((hash?, true)),
            None => Ok((stand_in.context("has no account that can be used")?, false)),
        }
    }

    /// What is kept of somebody's password. The rest of the file is gone through as well, as it is for a name that has no
    /// account.
    fn find(self, name: &str) -> Option<anyhow::Result<Hash>> {
        let account = self.accounts().filter(|account| account.name == name).reduce(|first, _| first)?;
        Some(Hash::parse(account.hash).with_context(|| of_account(name)))
    }

    /// An account that is tried for a name that has none, always the same one.
    fn stand_in(self, name: &str) -> Option<Hash> {
        let count = self.accounts().count().max(1);
        let [first, second, ..] = self.secret(name);
        let start = usize::from(u16::from_be_bytes([first, second])) % count;
        let in_turn = self.accounts().skip(start).chain(self.accounts().take(start));
        in_turn.into_iter().find_map(|account| Hash::parse(account.hash).ok())
    }

    /// Keys for a name that has none, like these.
    fn made_up(self, name: &str, like: ScramKeys) -> ScramKeys {
        let secret = self.secret(name);
        let salt = mac(&secret, b"salt").into_iter().cycle().take(like.salt.len()).collect();
        ScramKeys { salt, stored_key: mac(&secret, b"stored"), server_key: mac(&secret, b"server"), ..like }
    }

    /// What nobody outside can foretell about a name. It changes with the first account only: if it did with any, what is
    /// made up would change when something else does, and show by that that it is made up.
    fn secret(self, name: &str) -> scram_keys::Key {
        let first = self.accounts().next().map(|account| account.hash).unwrap_or_default();
        mac(first.as_bytes(), name.as_bytes())
    }
}

/// What is kept of the password of a user of the configuration.
fn of_user(password: &[u8]) -> scram_keys::Key {
    mac(b"auth_user", password)
}

fn of_account(name: &str) -> String {
    format!("the account `{name}`")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// Keys of SCRAM for these passwords, cheap ones.
    fn scram(password: &str) -> String {
        let salt = format!("salt of {password}").into_bytes();
        Hash::Scram(ScramKeys::of_password(password.as_bytes(), salt, 10.try_into().unwrap())).to_string()
    }

    fn answers(text: &str, names: [&str; 4], password: &str) -> [bool; 4] {
        names.map(|name| List(text.as_bytes()).is_password(name, password.as_bytes()).unwrap())
    }

    #[test]
    fn passwords() {
        let text = format!("# comment:\n\nfred:{}\r\njane@mx.example:{}", scram("one"), scram("two"));
        let names = ["fred", "jane@mx.example", "Fred", "nobody"];
        assert_eq!(answers(&text, names, "one"), [true, false, false, false]);
        assert_eq!(answers(&text, names, "two"), [false, true, false, false]);
        assert_eq!(answers(&text, names, ""), [false; 4]);
        assert_eq!(answers(&text, ["", "#", "# comment", "\n"], "one"), [false; 4]);
    }

    #[test]
    fn the_first_of_two_lines_counts() {
        let text = format!("fred:{}\nfred:{}\n", scram("one"), scram("two"));
        let list = List(text.as_bytes());
        assert!(list.is_password("fred", b"one").unwrap() && !list.is_password("fred", b"two").unwrap());
    }

    /// For a name that has no account the work is that for one that has: a password is held against a hash of the file.
    #[test]
    fn work_for_unknown_names() {
        let passwords = ["one", "two", "three"];
        let hashes = passwords.map(scram);
        let text: String = hashes.iter().enumerate().map(|(number, hash)| format!("user{number}:{hash}\n")).collect();
        let list = List(text.as_bytes());
        let mut tried = [0; 3];
        for number in 0..300 {
            let name = format!("nobody{number}");
            let (hash, is_known) = list.hash_to_try(&name).unwrap();
            let hash = hash.to_string();
            assert!(!is_known);
            tried[hashes.iter().position(|known| *known == hash).unwrap()] += 1;
            assert_eq!(list.hash_to_try(&name).unwrap().0.to_string(), hash, "always the same");
            // Not even with the password of the one whose hash that is.
            assert!(passwords.iter().all(|password| !list.is_password(&name, password.as_bytes()).unwrap()));
        }
        assert!(tried.iter().all(|count| *count > 50), "{tried:?}");
    }

    /// A hash that only using it shows to be damaged tells that it was used.
    #[test]
    fn a_password_of_nobody_is_tried() {
        let text = b"fred:$y$j9T$z$0gfT0FjVfrIg4rr5f77A6H7CWPHcdyxhrjcvMSC/S83\n";
        for name in ["fred", "nobody"] {
            let error = format!("{:#}", List(text).is_password(name, b"secret").unwrap_err());
            assert!(error.contains(": this hash is damaged: "), "{name}: {error}");
        }
    }

    #[test]
    fn keys_for_unknown_names() {
        let text = format!("fred:{}\njane:{}\n", scram("one"), scram("other"));
        let list = List(text.as_bytes());
        assert_eq!(
            list.scram_keys("fred").unwrap(),
            ScramKeys::of_password(b"one", b"salt of one".into(), 10.try_into().unwrap())
        );
        let nobody = list.scram_keys("nobody").unwrap();
        assert_eq!(nobody, list.scram_keys("nobody").unwrap());
        let others = ["nobodz", "fred", "jane"].map(|name| list.scram_keys(name).unwrap());
        assert!(others.iter().all(|other| other.salt != nobody.salt && other.stored_key != nobody.stored_key));
        assert!(["salt of one".len(), "salt of other".len()].contains(&nobody.salt.len()));
        // Another account later on does not change it.
        let more = format!("{text}bob:{}\n", scram("three"));
        let same = (0..40).filter(|number| {
            let name = format!("nobody{number}");
            let [before, after] = [list, List(more.as_bytes())].map(|list| list.scram_keys(&name).unwrap().stored_key);
            before == after
        });
        assert_eq!(same.count(), 40);
        assert!(List(b"").scram_keys("nobody").is_err());
    }

    #[test]
    fn what_can_be_offered() {
        let (scram, other) = (scram("one"), "$5$Tmm./NhCs2fOE7vn$89QSU20HHzltHKDdhxcjj.Kel5SQIm777Mp5YT6Vce8");
        for (text, takes_scram) in [
            (format!("fred:{scram}\n"), true),
            (format!("fred:{scram}\njane:{other}\n"), false),
            (format!("fred:{other}\n"), false),
            (format!("fred:{scram}\njane:damaged\n"), true),
            ("jane:damaged\n".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(List(text.as_bytes()).takes_scram(), takes_scram, "{text}");
        }
    }

    /// Where our own file is at fault, nobody is told that a password is wrong.
    #[test]
    fn own_faults() {
        let list =
            List(b"fred:{PLAIN}secret\njane:$5$rounds=999999999$a$89QSU20HHzltHKDdhxcjj.Kel5SQIm777Mp5YT6Vce8\n");
        for name in ["fred", "jane"] {
            let error = format!("{:#}", list.is_password(name, b"secret").unwrap_err());
            assert!(error.starts_with(&format!("the account `{name}`: this ")), "{error}");
            assert!(!error.contains("secret"), "{error}");
            assert!(list.scram_keys(name).is_err());
        }
        // Nor whose line is missing where there is none that can be used.
        for list in [list, List(b""), List(b"# all gone\nfr")] {
            let error = list.is_password("nobody", b"secret").unwrap_err().to_string();
            assert_eq!(error, "has no account that can be used");
        }
        let gone = Accounts::open(Some(Path::new("/no/such/file")));
        let error = format!("{:#}", gone.is_password("fred", b"secret").unwrap_err());
        assert!(error.starts_with("/no/such/file: cannot be opened: "), "{error}");
        assert!(!gone.takes_scram() && gone.scram_keys("fred").is_err());
    }

    #[test]
    fn users_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts");
        std::fs::write(&path, format!("fred:{}\njane:{}\n", scram("one"), scram("two"))).unwrap();
        let users = [("fred", "three"), ("fred", "four"), ("\u{fc}ser name", "p:w d")];
        let both = Accounts::open(Some(&path)).with_users(users.into_iter());
        let alone = Accounts::default().with_users(users.into_iter());
        for (name, password, of_both, of_alone) in [
            ("fred", "three", true, true),
            ("fred", "four", false, false),
            ("fred", "one", false, false),
            ("jane", "two", true, false),
            ("jane", "three", false, false),
            ("\u{fc}ser name", "p:w d", true, true),
            ("Fred", "three", false, false),
            ("", "three", false, false),
            ("fred", "", false, false),
            ("fred", "thre", false, false),
            ("fred", "threee", false, false),
        ] {
            let is_password = |accounts: &Accounts| accounts.is_password(name, password.as_bytes()).unwrap();
            assert_eq!((is_password(&both), is_password(&alone)), (of_both, of_alone), "{name} {password}");
        }
        // Clients would prefer SCRAM, and fred could not.
        assert!(Accounts::open(Some(&path)).takes_scram() && !both.takes_scram() && !alone.takes_scram());
        assert!(!format!("{both:?}").contains("three"), "{both:?}");
        // A file that cannot be read costs those in it alone.
        let gone = Accounts::open(Some(Path::new("/no/such/file"))).with_users(users.into_iter());
        assert!(gone.is_password("fred", b"three").unwrap() && gone.is_password("jane", b"two").is_err());
        // Where there is nobody at all, that is our fault and not that of who logs in.
        assert!(Accounts::default().is_password("fred", b"three").is_err());
    }
}
