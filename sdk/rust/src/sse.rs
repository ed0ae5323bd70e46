//! Server-sent events, as the HTML standard's `text/event-stream` defines them. Pure: bytes in, events out.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SseEvent {
    /// Its name; `message` where the server gave none.
    pub(crate) name: String,
    /// Its data lines, joined by newlines.
    pub(crate) data: String,
}

/// More than one event may hold: output chunks are far smaller.
const MOST_EVENT: usize = 64 << 20;

/// Cuts a byte stream into events, wherever the network cut it.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    buffer: Vec<u8>,
    /// Bytes of `buffer` known to hold no line end.
    scanned: usize,
    name: String,
    data: Vec<u8>,
    has_data: bool,
}

/// The stream is no event stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotEvents;

impl SseParser {
    /// Takes the next bytes and returns the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, NotEvents> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(at) = self.buffer[self.scanned..].iter().position(|&b| b == b'\n').map(|at| at + self.scanned) {
            let end = if at > start && self.buffer[at - 1] == b'\r' { at - 1 } else { at };
            let line = self.buffer[start..end].to_vec();
            start = at + 1;
            self.scanned = start;
            if let Some(event) = self.line(&line)? {
                events.push(event);
            }
        }
        self.buffer.drain(..start);
        self.scanned = self.buffer.len();
        if self.buffer.len() > MOST_EVENT || self.data.len() > MOST_EVENT {
            return Err(NotEvents);
        }
        Ok(events)
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<SseEvent>, NotEvents> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            if !std::mem::take(&mut self.has_data) {
                return Ok(None);
            }
            let name = if name.is_empty() { "message".into() } else { name };
            let data = String::from_utf8(data).map_err(|_| NotEvents)?;
            return Ok(Some(SseEvent { name, data }));
        }
        let (field, value) = match line.iter().position(|&b| b == b':') {
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &b""[..]),
        };
        match field {
            b"event" => self.name = String::from_utf8(value.to_vec()).map_err(|_| NotEvents)?,
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            // Comments keep the connection alive; the position comes with the data.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_the_same_wherever_the_network_cuts_them() {
        let text =
            b": hello\n\nevent: stdout\nid: 5\ndata: {\"a\":1}\n\nevent: end\r\ndata: x\r\ndata: y\r\n\r\n".as_slice();
        let expected = [event("stdout", "{\"a\":1}"), event("end", "x\ny")];
        for cut in 0..text.len() {
            let mut parser = SseParser::default();
            let mut seen = parser.push(&text[..cut]).unwrap();
            seen.extend(parser.push(&text[cut..]).unwrap());
            assert_eq!(seen, expected, "cut at {cut}");
        }
        let mut parser = SseParser::default();
        let one_by_one: Vec<_> = text.iter().flat_map(|b| parser.push(&[*b]).unwrap()).collect();
        assert_eq!(one_by_one, expected);
    }

    #[test]
    fn an_event_cut_short_is_not_an_event() {
        assert_eq!(SseParser::default().push(b"event: stdout\ndata: x\n"), Ok(vec![]));
        assert_eq!(SseParser::default().push(b"data: \xff\n\n"), Err(NotEvents));
    }
}
