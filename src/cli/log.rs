//! The log: what the program's parts trace, on standard error, in the format of everything else there.

use std::fmt::{self, Debug};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt as text};

use super::args::{Arguments, LogFormat};
use crate::say;

/// Starts it, as the arguments say.
pub fn start(arguments: &Arguments) {
    let filter = EnvFilter::try_new(&arguments.log).unwrap_or_else(|_| EnvFilter::new("warn"));
    let all = tracing_subscriber::registry().with(filter);
    match arguments.log_format {
        LogFormat::Text => {
            let lines = text::layer().with_writer(std::io::stderr).log_internal_errors(false);
            all.with(lines).init();
        }
        LogFormat::Json => {
            say::set_format(say::Format::Json);
            all.with(Objects).init();
        }
    }
}

/// Says each trace as an object.
struct Objects;

impl<S: Subscriber> Layer<S> for Objects {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = metadata.level().as_str().to_lowercase();
        let more = [("target", metadata.target().into()), ("fields", Value::Object(fields.others))];
        say::event(&level, "log", fields.message, more);
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = fmt::format(format_args!("{value:?}"));
        match field.name() {
            "message" => self.message = text,
            name => drop(self.others.insert(name.to_owned(), text.into())),
        }
    }
}
