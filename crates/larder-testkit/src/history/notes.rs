//! Notes of several processes: a word, the process, and up to six numbers, a line each.
//!
//! Each note is one unbuffered write to a file of its process, so the note survives even if the process is killed a
//! moment later. A line that a killed process did not finish is left out. The times are those of the machine's
//! monotonic clock; a process whose clocks are ahead subtracts the difference ([`Notebook::now`]). A run of hours keeps
//! only some words ([`Notebook::keep_only`]) and counts the others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::now;

/// How many numbers a note has at most.
const MOST: usize = 6;

/// Makes the notes of one process, from any number of tasks.
#[derive(Debug)]
pub struct Notebook {
    process: u32,
    ahead: u64,
    file: File,
    /// The words that are written; `None` writes all.
    words: Option<&'static [&'static str]>,
    made: AtomicU64,
}

impl Notebook {
    /// Creates a file in `folder`, named after the process, whose clocks are `ahead` seconds ahead of the machine's.
    ///
    /// # Errors
    ///
    /// If the file cannot be created, or exists already.
    pub fn create(folder: &Path, process: u32, ahead: u64) -> io::Result<Self> {
        let file = File::options().append(true).create_new(true).open(folder.join(process.to_string()))?;
        let ahead = ahead.saturating_mul(1_000_000_000);
        Ok(Self { process, ahead, file, words: None, made: AtomicU64::new(0) })
    }

    /// Writes only notes with these words from now on. The others are counted and dropped.
    #[must_use]
    pub fn keep_only(mut self, words: &'static [&'static str]) -> Self {
        self.words = Some(words);
        self
    }

    /// How many notes were made so far, written or not.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// The machine's monotonic clock, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        now().saturating_sub(self.ahead)
    }

    /// Makes a note of this process.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn note(&self, word: &str, numbers: &[u64]) -> io::Result<()> {
        self.note_of(word, self.process, numbers)
    }

    /// Makes a note of another process; 0 means all processes.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn note_of(&self, word: &str, process: u32, numbers: &[u64]) -> io::Result<()> {
        self.made.fetch_add(1, Ordering::Relaxed);
        if self.words.is_some_and(|words| !words.contains(&word)) {
            return Ok(());
        }
        let mut line = format!("{word} {process}");
        for number in numbers.iter().take(MOST) {
            line.push(' ');
            line.push_str(&number.to_string());
        }
        line.push('\n');
        (&self.file).write_all(line.as_bytes())
    }
}

/// A note: what it means is the word's business.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Note {
    /// Whose it is.
    pub process: u32,
    /// Its numbers; those that were not given are 0.
    pub numbers: [u64; MOST],
}

/// All notes of a folder, by word, each process's in its order.
#[derive(Debug, Default)]
pub struct Notes(BTreeMap<String, Vec<Note>>);

impl Notes {
    /// Reads all files of the folder.
    ///
    /// # Errors
    ///
    /// If a file cannot be read; `InvalidData` if a line is no note.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut notes = Self::default();
        for entry in fs::read_dir(folder)? {
            notes.add(&fs::read_to_string(entry?.path())?)?;
        }
        Ok(notes)
    }

    /// Reads notes from text: `word process number…` a line. Text behind the last line break is left out.
    ///
    /// # Errors
    ///
    /// `InvalidData` if a line is no note.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut notes = Self::default();
        notes.add(text)?;
        Ok(notes)
    }

    fn add(&mut self, text: &str) -> io::Result<()> {
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let (word, note) = parse(line)
                .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("it is no note: {line:?}")))?;
            match self.0.get_mut(word) {
                Some(all) => all.push(note),
                None => drop(self.0.insert(word.to_owned(), vec![note])),
            }
        }
        Ok(())
    }

    /// Those with this word.
    #[must_use]
    pub fn of(&self, word: &str) -> &[Note] {
        self.0.get(word).map_or(&[], Vec::as_slice)
    }
}

fn parse(line: &str) -> Option<(&str, Note)> {
    let mut words = line.split(' ');
    let (word, process) = (words.next()?, words.next()?.parse().ok()?);
    let mut note = Note { process, numbers: [0; MOST] };
    for (place, word) in words.enumerate() {
        *note.numbers.get_mut(place)? = word.parse().ok()?;
    }
    Some((word, note))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says so by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_back_without_the_line_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let book = Notebook::create(folder.path(), 3, 600).unwrap();
        assert!(Notebook::create(folder.path(), 3, 0).is_err());
        assert!(now() - book.now() >= 599_000_000_000);
        book.note("read", &[1, u64::MAX]).unwrap();
        book.note_of("fault", 7, &[1, 2, 3, 4, 5, 6]).unwrap();
        (&book.file).write_all(b"read 3 9 9").unwrap();
        let notes = Notes::read(folder.path()).unwrap();
        assert_eq!(notes.of("read"), [Note { process: 3, numbers: [1, u64::MAX, 0, 0, 0, 0] }]);
        assert_eq!(notes.of("fault"), [Note { process: 7, numbers: [1, 2, 3, 4, 5, 6] }]);
        assert_eq!(notes.of("write"), []);
    }

    #[test]
    fn words_that_are_not_kept_are_counted_and_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let book = Notebook::create(folder.path(), 1, 0).unwrap().keep_only(&["sample"]);
        book.note("read", &[1]).unwrap();
        book.note("sample", &[2]).unwrap();
        assert_eq!(book.made(), 2);
        let notes = Notes::read(folder.path()).unwrap();
        assert_eq!((notes.of("read").len(), notes.of("sample").len()), (0, 1));
    }

    #[test]
    fn a_line_that_is_no_note_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1"), "read 1 x\n").unwrap();
        assert_eq!(Notes::read(folder.path()).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
