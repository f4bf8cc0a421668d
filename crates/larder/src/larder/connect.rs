//! From the settings to the handle.

use super::Larder;
use crate::builder::LarderBuilder;
use crate::error::Result;

impl LarderBuilder {
    /// Connects and waits until the store answers.
    ///
    /// # Errors
    ///
    /// - [`InvalidUrl`](crate::ErrorKind::InvalidUrl), [`InvalidSetting`](crate::ErrorKind::InvalidSetting): correct
    ///   the URL or the setting.
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt.
    pub async fn connect(self) -> Result<Larder> {
        let (context, presence) = self.start()?;
        context.ready().await?;
        Ok(Larder::new(context, presence))
    }

    /// Returns at once, and opens the connections in the background: see [`Larder::connect_lazy`].
    ///
    /// # Errors
    ///
    /// - [`InvalidUrl`](crate::ErrorKind::InvalidUrl), [`InvalidSetting`](crate::ErrorKind::InvalidSetting): correct
    ///   the URL or the setting.
    pub fn connect_lazy(self) -> Result<Larder> {
        self.start().map(|(context, presence)| Larder::new(context, presence))
    }
}
