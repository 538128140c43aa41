//! Reading the hypervisor's log lines: `portcullis: event=… key=value …`.

/// What every line of the hypervisor starts with.
pub const PREFIX: &str = "portcullis: ";

/// One line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    fields: Vec<(String, String)>,
}

impl Event {
    /// Takes a line apart; `None` when it is not one of the hypervisor's.
    ///
    /// A value may be quoted; within quotes, `\"` and `\\` stand for the
    /// characters they end with. A word without `=` is a key without value.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let start = line.find(PREFIX)? + PREFIX.len();
        let mut rest = line[start..].trim();
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let end = rest.find(['=', ' ']).unwrap_or(rest.len());
            let key = rest[..end].to_owned();
            rest = &rest[end..];
            let mut value = String::new();
            if let Some(after) = rest.strip_prefix('=') {
                rest = match after.strip_prefix('"') {
                    Some(quoted) => unquote(quoted, &mut value),
                    None => {
                        let end = after.find(' ').unwrap_or(after.len());
                        value.push_str(&after[..end]);
                        &after[end..]
                    }
                };
            }
            fields.push((key, value));
            rest = rest.trim_start();
        }
        Some(Self { fields })
    }

    /// The value of the first field `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// What kind of event it is.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.get("event").unwrap_or("")
    }

    /// The value of `key` as a number, decimal or 0x….
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        parse_number(self.get(key)?)
    }

    /// The value of `key` as seconds with a fraction.
    #[must_use]
    pub fn seconds(&self, key: &str) -> Option<f64> {
        self.get(key)?.parse().ok()
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// Reads a number, decimal or 0x….
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Copies up to the closing quote to `value` and returns what follows it.
fn unquote<'a>(text: &'a str, value: &mut String) -> &'a str {
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return &text[at + 1..],
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_line_is_taken_apart() {
        let line = "portcullis: event=dma_fault smmu=0x9050000 stream=0x8 t=1.000250 access=write";
        let event = Event::parse(line).expect("one of ours");
        assert_eq!(event.kind(), "dma_fault");
        assert_eq!(event.number("stream"), Some(8));
        assert_eq!(event.seconds("t"), Some(1.000_25));
        assert_eq!(event.get("access"), Some("write"));
        assert_eq!(event.get("acces"), None);
    }

    #[test]
    fn quoted_values_keep_their_spaces() {
        let event = Event::parse(r#"portcullis: event=boot_error reason="no \"SMMU\" here" fix=x"#)
            .expect("one of ours");
        assert_eq!(event.get("reason"), Some("no \"SMMU\" here"));
        assert_eq!(event.get("fix"), Some("x"));
    }

    #[test]
    fn other_lines_are_none_of_ours() {
        assert_eq!(Event::parse("[    0.000000] Booting Linux"), None);
    }
}
