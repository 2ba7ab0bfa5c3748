"""What runs and calls tell whoever looks: spans of OpenTelemetry, and log lines."""

from llmprog.tracing.watching import Unwatched as Unwatched
from llmprog.tracing.watching import WatchedCall as WatchedCall
from llmprog.tracing.watching import WatchedRun as WatchedRun
from llmprog.tracing.watching import note_retry as note_retry
from llmprog.tracing.watching import thought_log as thought_log
from llmprog.tracing.watching import watch_call as watch_call
