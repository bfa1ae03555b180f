//! Why a request is refused.

/// Why a request can't be served. Its framing is lost, so the server must answer and close (RFC 9112 §9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// RFC 9112 §3: the bytes are not a valid request.
    #[error("the request can't be read: {0}")]
    Syntax(&'static str),
    /// RFC 9110 §15.5.15
    #[error("the request target is too long")]
    UriTooLong,
    /// RFC 6585 §5
    #[error("the request head is too large")]
    HeadTooLarge,
    /// RFC 9110 §15.5.14
    #[error(
        "the body is too large; a module's route takes more with CWEB_BODY_MIB(n), up to the operator's --route-body-bytes-max"
    )]
    BodyTooLarge,
    /// RFC 9110 §15.6.2
    #[error("this method is not known here")]
    UnknownMethod,
    /// RFC 9112 §6.1
    #[error("this transfer coding is not known here")]
    UnknownCoding,
    /// RFC 9110 §15.6.6
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// RFC 9110 §15.5.18
    #[error("only the expectation 100-continue can be met")]
    Expectation,
    /// There is no memory for the body: RFC 9110 §15.6.4.
    #[error("the server has no memory for this body now; try again")]
    NoMemory,
}

impl RequestError {
    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Syntax(_) => 400,
            Self::UriTooLong => 414,
            Self::HeadTooLarge => 431,
            Self::BodyTooLarge => 413,
            Self::UnknownMethod | Self::UnknownCoding => 501,
            Self::Version => 505,
            Self::Expectation => 417,
            Self::NoMemory => 503,
        }
    }
}
