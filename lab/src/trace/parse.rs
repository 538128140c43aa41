//! One line.

/// What a line of the trace says, as it says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A request at a time in nanoseconds, of a domain.
    Request {
        nanos: u64,
        domain: u32,
        what: Asked,
    },
    /// Another driver begins: all endpoints leave their domains.
    Reset { nanos: u64 },
    /// The end: how many requests are there, and how many are not.
    End { records: u64, dropped: u64 },
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Attach(u32),
    Detach(u32),
    Map { iova: u64, bytes: u64 },
    Unmap { iova: u64, bytes: u64 },
}

const PREFIX: &[u8] = b"portcullis: ";
const RECORD: &[u8] = b"trace=";
const END: &[u8] = b"event=trace_end";
const SHAPE: &str = "a line is `trace=SECONDS,map,DOMAIN,IOVA,BYTES`, with `unmap` the same, or \
     `trace=SECONDS,attach,DOMAIN,ENDPOINT`, with `detach` the same, or `trace=SECONDS,reset`";

/// What a line of the log says; `None` if it is none of the trace.
pub(super) fn line(line: &[u8]) -> Option<Result<Said, String>> {
    let line = line.trim_ascii();
    // Something that did not end its line may be before it.
    let body = line.strip_prefix(PREFIX).or_else(|| {
        let at = line.windows(PREFIX.len()).position(|part| part == PREFIX)?;
        line.get(at + PREFIX.len()..)
    });
    let body = body.unwrap_or(line);
    if let Some(rest) = body.strip_prefix(RECORD) {
        return Some(text(rest).and_then(record));
    }
    match body.strip_prefix(END) {
        Some(rest) if rest.first().is_none_or(u8::is_ascii_whitespace) => {
            Some(text(rest).and_then(end))
        }
        _ => None,
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    str::from_utf8(bytes).map_err(|_| {
        let found = String::from_utf8_lossy(bytes);
        format!("`{found}` is no text; {SHAPE}")
    })
}

fn record(text: &str) -> Result<Said, String> {
    let (fields, rest) = text.split_once(' ').unwrap_or((text, ""));
    if !(rest.is_empty() || rest.starts_with("t=")) {
        return Err(format!("`{rest}` is behind the record; {SHAPE}"));
    }
    let mut fields = fields.split(',');
    let mut next = || fields.next().ok_or_else(|| format!("too short; {SHAPE}"));
    let nanos = seconds(next()?)?;
    let what = next()?;
    if what == "reset" {
        return match fields.next() {
            Some(more) => Err(format!("`{more}` is one field too many; {SHAPE}")),
            None => Ok(Said::Reset { nanos }),
        };
    }
    let name = next()?;
    let domain = number(name, u32::MAX.into(), "a domain")? as u32;
    let what = match what {
        "attach" | "detach" => {
            let endpoint = number(next()?, u32::MAX.into(), "an endpoint")? as u32;
            if what == "attach" {
                Asked::Attach(endpoint)
            } else {
                Asked::Detach(endpoint)
            }
        }
        "map" | "unmap" => {
            let iova = number(next()?, u64::MAX, "an address")?;
            let bytes = number(next()?, u64::MAX, "a number of bytes")?;
            if what == "map" {
                Asked::Map { iova, bytes }
            } else {
                Asked::Unmap { iova, bytes }
            }
        }
        other => {
            return Err(format!(
                "`{other}` is no request: attach, detach, map, unmap or reset"
            ));
        }
    };
    if let Some(more) = fields.next() {
        return Err(format!("`{more}` is one field too many; {SHAPE}"));
    }
    Ok(Said::Request {
        nanos,
        domain,
        what,
    })
}

fn end(text: &str) -> Result<Said, String> {
    let field = |key: &str| {
        let all = text.split_ascii_whitespace();
        let value = all
            .filter_map(|pair| pair.split_once('='))
            .find(|(k, _)| *k == key);
        let shape = "the end of a trace is `event=trace_end records=N dropped=N`";
        let (_, value) = value.ok_or_else(|| format!("`{key}=` is missing; {shape}"))?;
        number(value, u64::MAX, "a number of requests")
    };
    Ok(Said::End {
        records: field("records")?,
        dropped: field("dropped")?,
    })
}

/// A decimal number, or a hexadecimal one behind `0x`.
fn number(word: &str, most: u64, what: &str) -> Result<u64, String> {
    let (digits, radix) = match word.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (word, 10),
    };
    // The standard library takes a sign too.
    let sign = digits.starts_with(['+', '-']);
    let value = u64::from_str_radix(digits, radix).ok();
    value
        .filter(|value| !sign && *value <= most)
        .ok_or_else(|| {
            format!("`{word}` is not {what}: a number like 12 or 0x1000, {most:#x} at most")
        })
}

/// Seconds with up to nine digits behind the point, in nanoseconds.
fn seconds(word: &str) -> Result<u64, String> {
    let (whole, part) = word.split_once('.').unwrap_or((word, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let nanos = || {
        if !digits(whole) || !digits(part) || part.len() > 9 {
            return None;
        }
        let whole = whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
        let scale = 10_u64.pow(9 - part.len() as u32);
        whole.checked_add(part.parse::<u64>().ok()? * scale)
    };
    nanos().ok_or_else(|| format!("`{word}` is no time: seconds like 1.250000417"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_what_they_say() {
        assert_eq!(number("0x1f", 31, ""), Ok(31));
        assert_eq!(number("12", 12, ""), Ok(12));
        for wrong in [
            "",
            "0x",
            "+1",
            "0x-1",
            "1f",
            "13",
            "0x1_0",
            "99999999999999999999",
        ] {
            assert!(number(wrong, 12, "it").is_err(), "{wrong}");
        }
        assert_eq!(seconds("1.250000417"), Ok(1_250_000_417));
        assert_eq!(seconds("3.5"), Ok(3_500_000_000));
        assert_eq!(seconds("7"), Ok(7_000_000_000));
        for wrong in [
            "",
            ".5",
            "1.",
            "1.0000000001",
            "-1.0",
            "1.-5",
            "99999999999.0",
            "1e3",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_record_is_found_behind_what_did_not_end_its_line() {
        let map = Said::Request {
            nanos: 1_000_000_000,
            domain: 0,
            what: Asked::Map {
                iova: 0x1000,
                bytes: 0x2000,
            },
        };
        for text in [
            "trace=1.0,map,0,0x1000,0x2000",
            "portcullis: trace=1.0,map,0,0x1000,0x2000 t=2.087447\r\n",
            "[    3.1] reboot: Powerportcullis: trace=1.0,map,0,0x1000,8192 t=2.0",
        ] {
            assert_eq!(line(text.as_bytes()), Some(Ok(map)), "{text}");
        }
        for text in [
            "",
            "portcullis: event=trace_ended records=1",
            "map trace=1.0,map",
        ] {
            assert_eq!(line(text.as_bytes()), None, "{text}");
        }
    }
}
