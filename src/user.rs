//! Becoming the user that the configuration names, when started as root.
//!
//! Users and groups are looked up in /etc/passwd and /etc/group: a static binary cannot load the C library's plug-ins
//! for other sources, and a mail receiver's user is a local one.

use anyhow::{Context, bail};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, setegid, seteuid, setgid, setgroups, setuid};

/// Whether there is such a user, as far as we can look.
pub(crate) fn is_known(name: &str) -> bool {
    id(name).is_some()
}

/// The number of a user, as far as we can look.
pub(crate) fn id(name: &str) -> Option<u32> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    user(&passwd, name).map(|(uid, _)| uid.as_raw())
}

/// Does something as this user, and is root again afterwards: for looks at files. Only in a process of one thread, which
/// has nobody at the other end.
pub(crate) fn as_user<T>(name: &str, act: impl FnOnce() -> T) -> anyhow::Result<T> {
    let passwd = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let group = std::fs::read_to_string("/etc/group").context("reading /etc/group")?;
    let Some((uid, gid)) = user(&passwd, name) else { bail!("there is no user `{name}` in /etc/passwd") };
    let mut groups = vec![gid];
    groups.extend(supplementary_groups(&group, name));
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
pub(crate) fn become_user(name: &str) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let group = std::fs::read_to_string("/etc/group").context("reading /etc/group")?;
    let Some((uid, gid)) = user(&passwd, name) else { bail!("there is no user `{name}` in /etc/passwd") };
    let mut groups = vec![gid];
    groups.extend(supplementary_groups(&group, name));
    setgroups(&groups).context("setting the groups")?;
    setgid(gid).context("setting the group")?;
    setuid(uid).context("setting the user")?;
    if uid.as_raw() != 0 && setuid(Uid::from_raw(0)).is_ok() {
        bail!("root could be regained");
    }
    Ok(())
}

/// Who somebody is to programs (passwd(5)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: String,
    /// The login shell.
    pub(crate) shell: String,
}

impl Account {
    /// Who we are. One that /etc/passwd does not know is called by its number and is at home at the root.
    pub(crate) fn ours() -> Self {
        Self::of(&std::fs::read_to_string("/etc/passwd").unwrap_or_default(), geteuid())
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

/// The login shell of who has none (passwd(5)).
const SHELL: &str = "/bin/sh";

/// passwd(5): `name:password:uid:gid:...`
fn user(passwd: &str, name: &str) -> Option<(Uid, Gid)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((Uid::from_raw(uid), Gid::from_raw(gid)))
    })
}

/// group(5): `name:password:gid:member,member`
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
        assert_eq!(user(passwd, "mail"), Some((Uid::from_raw(8), Gid::from_raw(12))));
        assert_eq!(user(passwd, "mai"), None);
        for (uid, name, home, shell) in
            [(8, "mail", "/var/mail", "/usr/sbin/nologin"), (9, "news", "/", "/bin/sh"), (7, "7", "/", "/bin/sh")]
        {
            let passwd = format!("{passwd}news:x:9:9::/:\n");
            let account = Account { name: name.to_owned(), home: home.to_owned(), shell: shell.to_owned() };
            assert_eq!(Account::of(&passwd, Uid::from_raw(uid)), account);
        }
        let group = "root:x:0:\nlist:x:38:mail,news\nadm:x:4:email\n";
        assert_eq!(supplementary_groups(group, "mail").collect::<Vec<_>>(), [Gid::from_raw(38)]);
    }
}
