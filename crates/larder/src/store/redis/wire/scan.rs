//! Finds the end of the next frame.
//!
//! When more bytes arrive, the scan continues where it stopped: no byte is read twice, and the content of a string is
//! skipped. The scan allocates nothing, so a header that announces many elements costs no memory until they arrive.

use arrayvec::ArrayVec;

use super::error::WireError;

/// How deep arrays and maps may nest.
pub(super) const DEPTH: usize = 32;
/// The longest string, as large as Redis allows by default.
pub(super) const LONGEST: usize = 512 * 1024 * 1024;
/// The longest frame.
const LARGEST: usize = 1024 * 1024 * 1024;
/// The longest line: a simple string, an error, a number.
const LINE: usize = 64 * 1024;
/// The most elements of one array.
const MOST: u64 = 1 << 27;

#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The offset at which the next line begins.
    at: usize,
    /// The offset up to which there is no line end.
    searched: usize,
    /// The offset at which the string that is being received ends.
    string: Option<usize>,
    levels: ArrayVec<Level, DEPTH>,
}

/// An array, map, set, push or attribute that is not complete.
#[derive(Debug)]
struct Level {
    left: u64,
    /// Whether it is no element of the array around it: an attribute, or a push inside a reply.
    beside: bool,
}

impl Scan {
    /// Returns the end of the frame at the beginning of `buffer`, or `None` if the frame is incomplete. `buffer` must
    /// begin with the bytes of the last call that returned `None`.
    pub(super) fn advance(&mut self, buffer: &[u8]) -> Result<Option<usize>, WireError> {
        loop {
            let element = match self.string {
                Some(end) => match buffer.get(end..end + 2) {
                    None => return Ok(None),
                    Some(b"\r\n") => {
                        (self.at, self.string) = (end + 2, None);
                        true
                    }
                    Some(_) => return Err(WireError::malformed("a string is longer than announced")),
                },
                None => match self.line(buffer)? {
                    Some(line) => self.header(line)?,
                    None => return Ok(None),
                },
            };
            if self.at > LARGEST {
                return Err(WireError::malformed(format!("a reply of more than {LARGEST} bytes")));
            }
            if element && self.is_complete() {
                let end = self.at;
                *self = Self::default();
                return Ok(Some(end));
            }
        }
    }

    /// The next line without its end, if it is complete.
    fn line<'a>(&mut self, buffer: &'a [u8]) -> Result<Option<&'a [u8]>, WireError> {
        // Check the first byte before the line is complete: a peer that does not speak RESP fails here at once.
        if let Some(kind) = buffer.get(self.at).filter(|kind| !begins_line(**kind)) {
            return Err(WireError::malformed(format!("a line that begins with the byte {kind}")));
        }
        if let Some(end) = line_end(buffer, self.at, self.searched) {
            let line = buffer.get(self.at..end);
            (self.at, self.searched) = (end + 2, end + 2);
            return Ok(line);
        }
        self.searched = buffer.len();
        if buffer.len().saturating_sub(self.at) > LINE {
            return Err(WireError::malformed(format!("a line of more than {LINE} bytes")));
        }
        Ok(None)
    }

    /// Reads the header of an element. Returns whether it is the whole element; if not, its content follows.
    fn header(&mut self, line: &[u8]) -> Result<bool, WireError> {
        let Some((kind, rest)) = line.split_first() else {
            return Err(WireError::malformed("an empty line"));
        };
        let (factor, beside) = match kind {
            b'$' | b'!' | b'=' => {
                let Some(length) = length(*kind, rest)? else { return Ok(true) };
                let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST);
                let Some(length) = length else {
                    return Err(WireError::malformed(format!("a string of more than {LONGEST} bytes")));
                };
                self.string = Some(self.at + length);
                self.searched = self.at + length;
                return Ok(false);
            }
            b'*' | b'~' => (1, false),
            b'>' => (1, !self.levels.is_empty()),
            b'%' => (2, false),
            b'|' => (2, true),
            _ => return Ok(true),
        };
        let Some(count) = length(*kind, rest)? else { return Ok(true) };
        let left = count * factor;
        if count > MOST {
            return Err(WireError::malformed(format!("an array of more than {MOST} elements")));
        }
        if left == 0 {
            return Ok(!beside);
        }
        match self.levels.try_push(Level { left, beside }) {
            Ok(()) => Ok(false),
            Err(_) => Err(WireError::malformed(format!("arrays that nest more than {DEPTH} deep"))),
        }
    }

    /// Counts an element, and returns whether it completes the frame.
    fn is_complete(&mut self) -> bool {
        loop {
            let Some(level) = self.levels.last_mut() else { return true };
            level.left -= 1;
            if level.left > 0 {
                return false;
            }
            let beside = level.beside;
            self.levels.pop();
            if beside {
                return false;
            }
        }
    }
}

/// Whether a byte is the first of a line.
fn begins_line(byte: u8) -> bool {
    const KINDS: u128 = {
        let (mut bits, mut rest): (u128, &[u8]) = (0, b"+-:$*_#,(!=%~>|");
        while let [first, tail @ ..] = rest {
            (bits, rest) = (bits | 1 << *first, tail);
        }
        bits
    };
    byte < 128 && KINDS >> byte & 1 == 1
}

/// Returns where the line that begins at `begin` ends: the offset of its `\r\n`. There is no `\n` of it before
/// `searched`.
pub(super) fn line_end(buffer: &[u8], begin: usize, searched: usize) -> Option<usize> {
    let mut from = searched.max(begin);
    while let Some(found) = buffer.get(from..)?.iter().position(|byte| *byte == b'\n') {
        let end = from + found;
        if end > begin && buffer.get(end - 1) == Some(&b'\r') {
            return Some(end - 1);
        }
        from = end + 1;
    }
    None
}

/// The number in a header; `None` for RESP2's null.
pub(super) fn length(kind: u8, text: &[u8]) -> Result<Option<u64>, WireError> {
    if text == b"-1" && matches!(kind, b'$' | b'*') {
        return Ok(None);
    }
    if text == b"?" {
        return Err(WireError::malformed("a reply in parts of unknown length, which larder does not read"));
    }
    let digits = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(text).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| WireError::malformed("a length that is no number"))
}
