//! The server's protocol, as far as an examination needs it: RESP2 and RESP3 replies.
//!
//! The library's own connection hides what `doctor` looks at: raw error texts, pushes and their times, the protocol
//! that the server agreed to. So `doctor` parses replies by itself. Speed does not matter here; a reply that arrives in
//! pieces is parsed again from its start.

/// Replies may nest at most so deep: real ones nest four levels.
const MAX_DEPTH: usize = 32;

/// One reply of the server. Maps and sets are lists: a map alternates names and values, as in RESP2.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// A string of any kind.
    Text(Vec<u8>),
    /// A number; booleans are 0 and 1.
    Int(i64),
    /// No such thing.
    Null,
    /// An array, a set or a map.
    List(Vec<Reply>),
    /// A refusal, such as `NOPERM …`.
    Error(String),
    /// A message that answers no request, such as an invalidation.
    Push(Vec<Reply>),
}

/// The bytes are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Reply {
    /// Returns a string, also of a number.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Returns the bytes of a string.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns a number, also of a string of digits.
    pub(crate) fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Text(bytes) => std::str::from_utf8(bytes).ok()?.trim().parse().ok(),
            _ => None,
        }
    }

    /// Returns the members of a list; of anything else none.
    pub(crate) fn items(&self) -> &[Reply] {
        match self {
            Self::List(items) | Self::Push(items) => items,
            _ => &[],
        }
    }

    /// Returns the member at this place of a list.
    pub(crate) fn at(&self, index: usize) -> Option<&Reply> {
        self.items().get(index)
    }

    /// Returns what a map has under this name.
    pub(crate) fn field(&self, name: &str) -> Option<&Reply> {
        let mut pairs = self.items().chunks_exact(2);
        pairs.find_map(|pair| match pair {
            [key, value] if key.bytes() == Some(name.as_bytes()) => Some(value),
            _ => None,
        })
    }

    /// Returns the text of a refusal.
    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Error(message) => Some(message),
            _ => None,
        }
    }
}

/// Returns the first reply in the bytes and its length, or `None` if it is not complete yet.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let mut reader = Reader { bytes, position: 0 };
    Ok(reader.reply(0)?.map(|reply| (reply, reader.position)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    fn reply(&mut self, depth: usize) -> Result<Option<Reply>, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed);
        }
        let Some(line) = self.line() else { return Ok(None) };
        let (kind, rest) = line.split_first().ok_or(Malformed)?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        Ok(Some(match kind {
            b'+' | b'(' | b',' => Reply::Text(rest.to_vec()),
            b'-' => Reply::Error(text()),
            b':' => Reply::Int(number(rest)?),
            b'#' => Reply::Int(i64::from(rest == b"t")),
            b'_' => Reply::Null,
            b'$' | b'=' | b'!' => {
                let length = number(rest)?;
                if length < 0 {
                    return Ok(Some(Reply::Null));
                }
                let Some(body) = self.body(usize::try_from(length).map_err(|_| Malformed)?) else {
                    return Ok(None);
                };
                match kind {
                    b'!' => Reply::Error(String::from_utf8_lossy(&body).into_owned()),
                    // A verbatim string begins with its type, as in `txt:`.
                    b'=' => Reply::Text(body.get(4..).unwrap_or_default().to_vec()),
                    _ => Reply::Text(body),
                }
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = number(rest)?;
                if count < 0 {
                    return Ok(Some(Reply::Null));
                }
                let pairs = matches!(kind, b'%' | b'|');
                let count = count.checked_mul(if pairs { 2 } else { 1 }).ok_or(Malformed)?;
                let mut items = Vec::new();
                for _ in 0..count {
                    let Some(item) = self.reply(depth + 1)? else { return Ok(None) };
                    items.push(item);
                }
                match kind {
                    b'>' => Reply::Push(items),
                    // Attributes precede the reply that they describe.
                    b'|' => return self.reply(depth + 1),
                    _ => Reply::List(items),
                }
            }
            _ => return Err(Malformed),
        }))
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let rest = self.bytes.get(self.position..)?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        self.position += end + 2;
        rest.get(..end).map(<[u8]>::to_vec)
    }

    fn body(&mut self, length: usize) -> Option<Vec<u8>> {
        let end = self.position.checked_add(length)?;
        let body = self.bytes.get(self.position..end)?.to_vec();
        self.bytes.get(end..end + 2)?;
        self.position = end + 2;
        Some(body)
    }
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Reply {
        Reply::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn replies_of_both_protocols_are_read() {
        let map = Reply::List(vec![text("role"), text("master"), text("n"), Reply::Int(2)]);
        for (bytes, reply) in [
            ("+OK\r\n", text("OK")),
            ("$4\r\na\r\nb\r\n", text("a\r\nb")),
            ("$-1\r\n", Reply::Null),
            ("_\r\n", Reply::Null),
            ("=6\r\ntxt:hi\r\n", text("hi")),
            ("-NOPERM no\r\n", Reply::Error("NOPERM no".to_owned())),
            ("%2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n+n\r\n:2\r\n", map.clone()),
            ("|1\r\n+ttl\r\n:9\r\n:7\r\n", Reply::Int(7)),
            (">2\r\n+invalidate\r\n_\r\n", Reply::Push(vec![text("invalidate"), Reply::Null])),
        ] {
            assert_eq!(parse(bytes.as_bytes()), Ok(Some((reply, bytes.len()))), "{bytes:?}");
            for cut in 0..bytes.len() {
                let part = bytes.as_bytes().get(..cut).unwrap();
                assert_eq!(parse(part), Ok(None), "the first {cut} bytes of {bytes:?}");
            }
        }
        assert_eq!(map.field("n").and_then(Reply::int), Some(2));
        assert_eq!(parse(b"hello\r\n"), Err(Malformed));
        assert_eq!(parse(":".repeat(3).as_bytes()), Ok(None));
        assert_eq!(parse("*1\r\n".repeat(64).as_bytes()), Err(Malformed));
    }
}
