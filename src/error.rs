//! One error type. Every message answers, for somebody woken at night: what happened, what state
//! things are in, what to do next.

use std::fmt;

/// What an error means for the run; decides the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The run failed; the source is untouched and still in use.
    Failed,
    /// The run failed, and what the application changed since is not known: only a comparison of every row
    /// (`resume --recover`) can go on.
    Unproven,
    /// The command line or the change asked for is wrong.
    Usage,
    /// Preflight refused the run before anything was touched.
    Refused,
    /// Source and shadow differ and repair did not cure it, or the data violates the new shape.
    DataDiffers,
    /// The operator asked to stop.
    Stopped,
    /// This migration can never go on (another run took over, its source changed).
    NotResumable,
}

impl Kind {
    /// The process exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed | Kind::Unproven => 1,
            Kind::Usage => 2,
            Kind::Refused => 3,
            Kind::DataDiffers => 4,
            Kind::Stopped => 5,
            Kind::NotResumable => 6,
        }
    }
}

/// An error for an operator: what happened, the state things are in, what to do next.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    state: Option<String>,
    next: Option<String>,
    code: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `what` says what happened, without a final full stop.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            what: what.into(),
            state: None,
            next: None,
            code: None,
            source: None,
        }))
    }

    /// A failure of the run ([`Kind::Failed`]).
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what)
    }

    /// A connection that is as good as gone: the server does not answer on it.
    pub fn lost(what: impl Into<String>) -> Self {
        Self::failed(what).source(std::io::Error::from(std::io::ErrorKind::TimedOut))
    }

    /// A wrong command line or change ([`Kind::Usage`]).
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// Says what state things are in.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.0.state = Some(state.into());
        self
    }

    /// Says what to do next.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.0.next = Some(next.into());
        self
    }

    /// Adds the state of the run and its way out, after what is already said to do next.
    pub fn and_then_state(mut self, state: String, next: String) -> Self {
        self.0.state = Some(match self.0.state.take() {
            Some(known) => format!("{known}. {state}"),
            None => state,
        });
        self.0.next = Some(match self.0.next.take() {
            Some(known) => format!("{known}. {next}"),
            None => next,
        });
        self
    }

    /// Keeps the underlying error.
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `context` in front of what happened.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.what = format!("{context}: {}", self.0.what);
        self
    }

    /// What the error means for the run.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The same error with another meaning for the run.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What happened, in one sentence.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Whether somebody already said what state things are in.
    pub fn has_state(&self) -> bool {
        self.0.state.is_some()
    }

    /// The PostgreSQL error underneath, if there is one.
    pub fn db(&self) -> Option<&tokio_postgres::error::DbError> {
        let source = self.0.source.as_deref()?;
        source.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.as_db_error())
    }

    /// The SQLSTATE, where the server said one, on whatever connection.
    pub fn sqlstate(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// An error that the server gave this SQLSTATE.
    pub fn coded(mut self, code: impl Into<String>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    /// Whether the SQL connection underneath is gone.
    pub fn is_connection_lost(&self) -> bool {
        let Some(source) = self.0.source.as_deref() else { return false };
        match source.downcast_ref::<tokio_postgres::Error>() {
            Some(e) => {
                use std::error::Error as _;
                e.is_closed() || e.source().is_some_and(|cause| cause.is::<std::io::Error>())
            }
            None => source.is::<std::io::Error>(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What PostgreSQL says may end with a full stop of its own.
        f.write_str(self.0.what.trim_end_matches('.'))?;
        for part in [&self.0.state, &self.0.next].into_iter().flatten() {
            write!(f, ". {}", part.trim_end_matches('.'))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// PostgreSQL's message, detail, hint and SQLSTATE in one line, and the function that raised it.
pub fn describe_db(e: &tokio_postgres::error::DbError) -> String {
    let mut text = format!("{} (SQLSTATE {})", e.message(), e.code().code());
    if let Some(detail) = e.detail() {
        text.push_str(&format!("; detail: {detail}"));
    }
    if let Some(hint) = e.hint() {
        text.push_str(&format!("; hint: {hint}"));
    }
    // Of all that the context holds only this: the rest may quote rows.
    let within = e.where_().and_then(|context| context.lines().find(|l| l.contains(" function ")));
    if let Some(function) = within {
        text.push_str(&format!("; in {function}"));
    }
    text
}

impl From<tokio_postgres::Error> for Error {
    fn from(e: tokio_postgres::Error) -> Self {
        let what = match e.as_db_error() {
            Some(db) => format!("PostgreSQL says: {}", describe_db(db)),
            None => {
                use std::error::Error as _;
                match e.source() {
                    Some(cause) => format!("the connection to PostgreSQL failed: {e}: {cause}"),
                    None => format!("the connection to PostgreSQL failed: {e}"),
                }
            }
        };
        let code = e.code().map(|code| code.code().to_owned());
        let error = Error::failed(what).source(e);
        match code {
            Some(code) => error.coded(code),
            None => error,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::failed(format!("input/output failed: {e}")).source(e)
    }
}
