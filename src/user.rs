//! Becoming the user that the configuration names, if root started us.
//!
//! Users and groups are looked up in /etc/passwd and /etc/group only: a static binary cannot load the C library's
//! plug-ins for other sources, and the user of a mail receiver is a local one.

use anyhow::{Context, bail};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, setegid, seteuid, setgid, setgroups, setuid};

use crate::files::read_text;

/// The number of the user in `USER` or `USER:GROUP`, if it can be found.
pub(crate) fn id(text: &str) -> Option<u32> {
    Identity::of(text).ok().map(|identity| identity.uid.as_raw())
}

/// Why it is impossible to become this user, if so.
pub(crate) fn trouble(text: &str) -> Option<String> {
    Identity::of(text).err().map(|error| format!("{error:#}"))
}

/// Whether we run as this user. `None` if we are root, who could become it.
pub(crate) fn is_us(text: &str) -> Option<bool> {
    let us = geteuid();
    (!us.is_root()).then(|| id(text) == Some(us.as_raw()))
}

/// The number of a user, given by name or number.
pub(crate) fn parse(text: &str) -> Option<u32> {
    named_or_number(&read_text("/etc/passwd").unwrap_or_default(), text)
}

/// The number of a group, given by name or number.
pub(crate) fn group(text: &str) -> Option<u32> {
    named_or_number(&read_text("/etc/group").unwrap_or_default(), text)
}

/// Runs `act` as this user and becomes root again, to find out what the user can do with files. Only for a process with
/// a single thread and no peer.
pub(crate) fn as_user<T>(text: &str, act: impl FnOnce() -> T) -> anyhow::Result<T> {
    let Identity { uid, gid, groups } = Identity::of(text)?;
    let (our_groups, our_group) = (getgroups().context("reading the groups")?, getegid());
    setgroups(&groups).context("setting the groups")?;
    setegid(gid).context("setting the group")?;
    seteuid(uid).context("setting the user")?;
    let done = act();
    seteuid(Uid::from_raw(0)).context("becoming root again")?;
    setegid(our_group).context("setting the group")?;
    setgroups(&our_groups).context("setting the groups")?;
    Ok(done)
}

/// Gives up root for good. Does nothing if we are not root.
pub(crate) fn become_user(text: &str) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let Identity { uid, gid, groups } = Identity::of(text)?;
    setgroups(&groups).context("setting the groups")?;
    setgid(gid).context("setting the group")?;
    setuid(uid).context("setting the user")?;
    if uid.as_raw() != 0 && setuid(Uid::from_raw(0)).is_ok() {
        bail!("root could be regained");
    }
    Ok(())
}

/// The user and groups to become, in numbers.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    uid: Uid,
    gid: Gid,
    /// All groups; `gid` is the first.
    groups: Vec<Gid>,
}

impl Identity {
    /// Looks up `USER` or `USER:GROUP`, each a name or a number.
    fn of(text: &str) -> anyhow::Result<Self> {
        // Numbers need neither file, and a minimal container image may have none.
        let read = |file| match read_text(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.with_context(|| format!("reading {file}")),
        };
        Self::looked_up(text, &read("/etc/passwd")?, &read("/etc/group")?)
    }

    fn looked_up(text: &str, passwd: &str, group: &str) -> anyhow::Result<Self> {
        let (user, group_name) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let known = user_line(passwd, user);
        let own_group = match group_name {
            Some(name) => {
                let Some(gid) = named_or_number(group, name) else { bail!("there is no group `{name}` in /etc/group") };
                Some(gid)
            }
            None => None,
        };
        let (name, uid, gid) = match (known, number(user), own_group) {
            (Some((name, uid, gid)), _, own_group) => (Some(name), uid, own_group.unwrap_or(gid)),
            (None, Some(uid), Some(gid)) => (None, uid, gid),
            // Neither root's group nor one with the same number is a good guess.
            (None, Some(uid), None) => {
                bail!("user {uid} has no line in /etc/passwd that says its group: write `{uid}:GROUP`");
            }
            (None, None, _) => bail!("there is no user `{user}` in /etc/passwd"),
        };
        let mut groups = vec![Gid::from_raw(gid)];
        groups.extend(name.into_iter().flat_map(|name| supplementary_groups(group, name)));
        Ok(Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups })
    }
}

/// Reads the number of a user or group. The highest number means "none" (chown(2)).
fn number(text: &str) -> Option<u32> {
    let has_sign = text.starts_with('+');
    text.parse().ok().filter(|number| *number != u32::MAX && !has_sign)
}

/// What programs want to know of a user (passwd(5)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: String,
    /// The login shell.
    pub(crate) shell: String,
}

impl Account {
    /// Our own user. If /etc/passwd does not have it, its number is its name, and its home is the root directory.
    pub(crate) fn ours() -> Self {
        Self::of(&read_text("/etc/passwd").unwrap_or_default(), geteuid())
    }

    fn of(passwd: &str, uid: Uid) -> Self {
        let number = uid.to_string();
        let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let account = fields.filter(|fields| fields.get(2) == Some(&&*number)).find_map(|fields| match fields[..] {
            [name, _, _, _, _, home, shell] => Some((name.to_owned(), home.to_owned(), shell)),
            _ => None,
        });
        let (name, home, shell) = account.unwrap_or_else(|| (number.clone(), "/".to_owned(), ""));
        Self { name, home, shell: if shell.is_empty() { SHELL } else { shell }.to_owned() }
    }
}

/// The login shell if none is given (passwd(5)).
const SHELL: &str = "/bin/sh";

/// Finds a user by name, or else by number; returns its name and numbers. The format is passwd(5):
/// `name:password:uid:gid:...`
fn user_line<'p>(passwd: &'p str, user: &str) -> Option<(&'p str, u32, u32)> {
    let mut lines = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        Some((name, uid, gid))
    });
    lines.clone().find(|(name, ..)| *name == user).or_else(|| lines.find(|(_, uid, _)| Some(*uid) == number(user)))
}

/// The number of the user or group with this name; or the number itself, even if nobody has it. Both files have it in
/// the same field: `name:password:number:...`
fn named_or_number(file: &str, text: &str) -> Option<u32> {
    let mut lines = file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, number(fields.nth(1)?)?))
    });
    lines.find(|(name, _)| *name == text).map(|(_, number)| number).or_else(|| number(text))
}

/// The groups that have this user as a member. The format is group(5): `name:password:gid:member,member`
fn supplementary_groups<'g>(group: &'g str, name: &'g str) -> impl Iterator<Item = Gid> + 'g {
    group.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then(|| Gid::from_raw(gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nmail:x:8:12:mail:/var/mail:/usr/sbin/nologin\n";
        let group = "root:x:0:\nlist:x:38:mail,news\nadm:x:4:email\n";
        for (text, expected) in [
            ("mail", Some((8, 12, &[12, 38][..]))),
            ("8", Some((8, 12, &[12, 38]))),
            ("mail:adm", Some((8, 4, &[4, 38]))),
            ("8:7", Some((8, 7, &[7, 38]))),
            ("4711:adm", Some((4711, 4, &[4]))),
            ("0", Some((0, 0, &[0]))),
            ("4711", None),
            ("mai", None),
            ("mail:", None),
            ("mail:ad", None),
            (":12", None),
            ("4294967295:12", None),
            ("-1:12", None),
            ("+8:12", None),
            ("8:+12", None),
        ] {
            let found = Identity::looked_up(text, passwd, group).ok();
            let expected = expected.map(|(uid, gid, groups)| Identity {
                uid: Uid::from_raw(uid),
                gid: Gid::from_raw(gid),
                groups: groups.iter().copied().map(Gid::from_raw).collect(),
            });
            assert_eq!(found, expected, "{text}");
        }
        for (uid, name, home, shell) in
            [(8, "mail", "/var/mail", "/usr/sbin/nologin"), (9, "news", "/", "/bin/sh"), (7, "7", "/", "/bin/sh")]
        {
            let passwd = format!("{passwd}news:x:9:9::/:\n");
            let account = Account { name: name.to_owned(), home: home.to_owned(), shell: shell.to_owned() };
            assert_eq!(Account::of(&passwd, Uid::from_raw(uid)), account);
        }
    }

    #[test]
    fn names_and_numbers() {
        let group = "adm:x:4:\n\u{fffd}:x:5:\n7:x:70:\n";
        for (text, expected) in [
            ("adm", Some(4)),
            ("4711", Some(4711)),
            ("7", Some(70)),
            ("", None),
            ("ad", None),
            ("adm:4", None),
            ("+4", None),
            ("4294967295", None),
        ] {
            assert_eq!(named_or_number(group, text), expected, "{text}");
        }
    }
}
