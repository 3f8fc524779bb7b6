//! Octets as hexadecimal digits, two for each.

/// The digits of these octets, in lower case.
pub(crate) fn digits(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The octet that two digits stand for, in upper or lower case; `None` if they are no digits.
pub(crate) fn octet(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_octets_come_back() {
        for number in 0..=u8::MAX {
            for digits in [format!("{number:02x}"), format!("{number:02X}")] {
                assert_eq!(octet(*digits.as_bytes().first_chunk().unwrap()), Some(number));
            }
        }
        assert_eq!(digits(&[0, 0x1f, 0xff]), "001fff");
        for digits in [*b"+1", *b"1g", *b" 1", *b"\xff1"] {
            assert_eq!(octet(digits), None);
        }
    }
}
