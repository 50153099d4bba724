//! Takes the values of an open delivery out of a text (`spec/vault.md` 17.5). Long texts come and go
//! as sealed memfds.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{Hit, INLINE_MAX, Reply};

use crate::agent::{Agent, lock};
use crate::compose::Grantee;

/// The longest text.
const TEXT_MAX: u64 = 64 * 1024 * 1024;

/// Answers `Scrub`: the reply, and the descriptor that holds its text when it is long.
///
/// # Errors
/// An unknown delivery, or a text that is neither inside nor a sealed memfd.
pub(crate) fn scrub(
    agent: &Agent,
    delivery_id: u64,
    text: Option<Vec<u8>>,
    mut fds: Vec<OwnedFd>,
) -> Result<(Reply, Option<OwnedFd>), Refusal> {
    let grantee = lock(&agent.open).get(&delivery_id).map(Arc::clone);
    let grantee = grantee.ok_or_else(|| Refusal::new(RefusalKind::DeliveryUnknown, "vault: delivery is unknown"))?;
    match (text, fds.pop(), fds.is_empty()) {
        (Some(text), None, _) => scrubbed(&grantee, text, None),
        (None, Some(memfd), true) => {
            let text = read_sealed(&memfd)?;
            scrubbed(&grantee, text, Some(memfd))
        }
        _ => Err(Refusal::new(RefusalKind::Invalid, "a text is either in the frame or in one descriptor")),
    }
}

/// `came` is the memfd that the text was read from: a clean text goes back in it.
fn scrubbed(grantee: &Grantee, text: Vec<u8>, came: Option<OwnedFd>) -> Result<(Reply, Option<OwnedFd>), Refusal> {
    let Some(cleaned) = grantee.needles().clean(&text) else {
        let inline = came.is_none().then_some(text);
        return Ok((Reply::Scrubbed { text: inline, hits: Vec::new() }, came));
    };
    let hits = cleaned.hits.into_iter().map(|(name, count)| Hit { name, count }).collect();
    if cleaned.text.len() <= INLINE_MAX {
        return Ok((Reply::Scrubbed { text: Some(cleaned.text), hits }, None));
    }
    let memfd = seal(&cleaned.text)
        .map_err(|error| Refusal::new(RefusalKind::Internal, format!("vault: memory for the text: {error}")))?;
    Ok((Reply::Scrubbed { text: None, hits }, Some(memfd)))
}

/// The whole text of a memfd that nobody can change any more.
fn read_sealed(memfd: &OwnedFd) -> Result<Vec<u8>, Refusal> {
    let invalid = |what: String| Refusal::new(RefusalKind::Invalid, format!("text's descriptor {what}"));
    let failed = |error: rustix::io::Errno| invalid(format!("can not be read: {error}"));
    let fixed = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    let seals = rustix::fs::fcntl_get_seals(memfd).map_err(|_| invalid("is no memfd".to_owned()))?;
    if !seals.contains(fixed) {
        return Err(invalid("is not sealed".to_owned()));
    }
    let size = rustix::fs::fstat(memfd).map_err(failed)?.st_size.unsigned_abs();
    if size > TEXT_MAX {
        return Err(Refusal::new(RefusalKind::TooLarge, format!("text is over {TEXT_MAX} bytes")));
    }
    let mut text = vec![0; usize::try_from(size).expect("bounded above")];
    let mut filled = 0;
    while filled < text.len() {
        match rustix::io::pread(memfd, &mut text[filled..], filled as u64) {
            Ok(0) => return Err(invalid("ended early".to_owned())),
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(text)
}

fn seal(text: &[u8]) -> io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("scrubbed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(text)?;
    let memfd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(memfd)
}

#[cfg(test)]
mod tests;
