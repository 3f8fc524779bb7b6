//! Addresses according to the grammar (RFC 5321, 4.1.2 and 4.1.3).

use std::net::{Ipv4Addr, Ipv6Addr};

/// The mailbox of a path without its brackets, and without a source route, if it follows the grammar.
pub(super) fn mailbox_of(path: &str) -> Option<&str> {
    let mailbox = match path.strip_prefix('@') {
        Some(_) => {
            let (route, mailbox) = path.split_once(':')?;
            let is_route = route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(is_domain));
            is_route.then_some(mailbox)?
        }
        None => path,
    };
    is_mailbox(mailbox).then_some(mailbox)
}

/// Whether this is `Local-part "@" ( Domain / address-literal )`.
pub(super) fn is_mailbox(text: &str) -> bool {
    let Some((local, domain)) = split(text) else { return false };
    is_local_part(local) && (is_domain(domain) || is_address_literal(domain))
}

/// The local part and the domain, separated by the last `@`, because a quoted string may contain others.
pub(super) fn split(mailbox: &str) -> Option<(&str, &str)> {
    mailbox.rsplit_once('@')
}

/// The local part without quoting that does not change its meaning.
pub(super) fn unquoted(local: &str) -> String {
    let Some(quoted) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return local.to_owned() };
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    text
}

fn is_local_part(text: &str) -> bool {
    is_dot_string(text) || is_quoted_string(text)
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_character))
}

/// `atext` of RFC 5322, and characters beyond ASCII (RFC 6531, 3.3).
fn is_atom_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character) || !character.is_ascii()
}

fn is_quoted_string(text: &str) -> bool {
    let Some(quoted) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|_| text.len() > 1) else {
        return false;
    };
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        let is_allowed = match character {
            '\\' => characters.next().is_some_and(|quoted| matches!(quoted, ' '..='~')),
            '"' => false,
            character => matches!(character, ' '..='~') || !character.is_ascii(),
        };
        if !is_allowed {
            return false;
        }
    }
    true
}

/// Whether this is a domain: labels of letters, digits and inner hyphens.
pub(super) fn is_domain(text: &str) -> bool {
    text.split('.').all(|label| {
        let is_inner = |character: char| character.is_ascii_alphanumeric() || character == '-' || !character.is_ascii();
        !label.is_empty() && label.chars().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    })
}

/// Whether this is an address in brackets.
pub(super) fn is_address_literal(text: &str) -> bool {
    let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else { return false };
    if let Some(address) = prefix_without_case(address, "IPv6:") {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    match address.split_once(':') {
        // A registered tag is required, and none is registered.
        Some((tag, content)) => {
            is_domain(tag) && !tag.contains('.') && !content.is_empty() && content.bytes().all(is_literal_octet)
        }
        None => address.parse::<Ipv4Addr>().is_ok(),
    }
}

fn is_literal_octet(octet: u8) -> bool {
    matches!(octet, b'!'..=b'Z' | b'^'..=b'~')
}

/// The text behind this prefix, ignoring letter case.
pub(super) fn prefix_without_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
