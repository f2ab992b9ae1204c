//! Pages of another copy, which land beside those that are served.

use std::io;

use rung_consensus::{Arrival, Landed, Landing};

/// Where they land.
pub(crate) struct Runway(pub rung_pages::Landing);

struct Pages(rung_pages::Arrival);

impl Landing for Runway {
    fn begin(&self) -> io::Result<Box<dyn Arrival>> {
        let arrival = self.0.begin().map_err(io::Error::other)?;
        Ok(Box::new(Pages(arrival)))
    }
}

impl Arrival for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes).map_err(io::Error::other)
    }

    fn finish(self: Box<Self>) -> io::Result<Landed> {
        let landed: rung_pages::Landed = self.0.finish().map_err(io::Error::other)?;
        Ok(Box::new(landed))
    }
}
