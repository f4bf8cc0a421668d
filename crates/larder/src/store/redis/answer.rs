//! Reads the replies of the server, and turns those of another type into errors.

use bytes::Bytes;

use super::wire::Reply;
use crate::error::{Error, ErrorKind, Result};

pub(super) fn bytes(value: Reply) -> Result<Option<Bytes>> {
    match value {
        Reply::Nil => Ok(None),
        Reply::Bulk(bytes) => Ok(Some(bytes)),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn flag(value: &Reply) -> Result<bool> {
    number(value).map(|number| number > 0)
}

pub(super) fn number(value: &Reply) -> Result<u64> {
    match value {
        Reply::Int(number) => u64::try_from(*number).map_err(|_| unexpected(value)),
        other => Err(unexpected(other)),
    }
}

pub(super) fn pair(value: Reply) -> Result<(Reply, Reply)> {
    match value {
        Reply::Array(mut parts) if parts.len() == 2 => match (parts.pop(), parts.pop()) {
            (Some(second), Some(first)) => Ok((first, second)),
            _ => Err(Error::new(ErrorKind::Server, "the server's reply is not a pair")),
        },
        other => Err(unexpected(&other)),
    }
}

/// Makes an error for an unexpected reply. It names the type alone, because the value may be private data.
pub(super) fn unexpected(value: &Reply) -> Error {
    let type_name = match value {
        Reply::Nil => "nothing",
        Reply::Int(_) => "a number",
        Reply::Bulk(_) | Reply::Simple(_) => "a string",
        Reply::Array(_) => "an array",
        _ => "another type",
    };
    Error::new(ErrorKind::Server, format!("the server replied with {type_name}, which larder did not expect"))
}

/// Puts the results of groups into the order of the names.
pub(super) fn in_order<'a, T>(
    count: usize,
    mut groups: impl ExactSizeIterator<Item = (&'a [usize], Vec<T>)>,
) -> Result<Vec<T>> {
    if groups.len() == 1
        && let Some((_, answers)) = groups.next()
        && answers.len() == count
    {
        return Ok(answers);
    }
    let mut ordered: Vec<Option<T>> = std::iter::repeat_with(|| None).take(count).collect();
    for (places, answers) in groups {
        for (place, answer) in places.iter().zip(answers) {
            if let Some(slot) = ordered.get_mut(*place) {
                *slot = Some(answer);
            }
        }
    }
    let complete: Option<Vec<T>> = ordered.into_iter().collect();
    complete.ok_or_else(|| Error::new(ErrorKind::Server, "the server sent fewer replies than requests"))
}
