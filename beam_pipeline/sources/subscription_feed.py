"""A Pub/Sub subscription to a bucket's notifications: the feed of a local ``--subscription``.

A message is acknowledged when the row of its image is written, not before; until then its lease is
extended, and a process that dies leaves it to be delivered again. The number of images between the
subscription and their rows is bounded: beyond it, nothing is pulled.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from time import monotonic
from typing import Any

from beam_pipeline.sources.live import StreamLostError
from beam_pipeline.sources.notifications import ref_of_notification
from beam_pipeline.sources.seen_keys import SeenKeys
from schemas.errors import ConfigurationError
from schemas.records import ImageRef

_LOGGER = logging.getLogger(__name__)
_LEASE_S = 60
_RENEW_S = 20.0
_PULL_MESSAGES = 500
_PULL_S = 2.0
_IDS_A_CALL = 500
_TOPIC_S = 60.0
_ASK_S = 5.0
_NO_TOPIC = "_deleted-topic_"
"""What Pub/Sub calls the topic of a subscription whose topic is gone; no message will ever come from it."""


class SubscriptionFeed:
    """Images that a bucket announces, each generation once.

    Args:
        subscription: ``projects/P/subscriptions/S``.
        most_unsettled: Images given or waiting, and not yet settled; more are not pulled.
        horizon_s: A generation announced again within this time is a duplicate.
        client: ``google.pubsub_v1``'s subscriber; None = one with the user's credentials.
        clock: Seconds.
        now: UTC.
    """

    def __init__(
        self,
        subscription: str,
        most_unsettled: int,
        horizon_s: float,
        *,
        client: Any = None,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._subscription = subscription
        self._most = most_unsettled
        self._client = client or subscriber()
        self._seen = SeenKeys(horizon_s, clock)
        self._clock, self._now = clock, now
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, int], list[str]] = {}
        self._arrivals: queue.Queue[ImageRef] = queue.Queue()
        self._trouble: Exception | None = None
        self._ignored = self._duplicates = 0
        self.left_out = 0
        self._renewed_at = self._topic_seen_at = clock()
        self._ceased = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="subscription", daemon=True)
        self._thread.start()

    def arrived(self, most: int, timeout_s: float) -> list[ImageRef]:
        """Give announced images; see ``live.Feed``. Raises what ended the pulling, as often as asked."""
        trouble = self._trouble  # looked at first: what came before it is in the queue by now
        found = []
        try:
            found.append(self._arrivals.get(timeout=timeout_s) if timeout_s else self._arrivals.get_nowait())
            while len(found) < most:
                found.append(self._arrivals.get_nowait())
        except queue.Empty:
            if not found and trouble is not None:
                raise trouble from None
        return found

    def settle(self, refs: Sequence[ImageRef]) -> None:
        """Acknowledge the messages of these images."""
        with self._lock:
            ids = [message for ref in refs for message in self._leases.pop(ref.key, ())]
        # Not acknowledged, they come again, and are known.
        with self._trouble_kept():
            self._acknowledge(ids)

    def cease(self) -> None:
        """Pull no more."""
        self._ceased = True

    def close(self) -> None:
        """Stop pulling, and give back what is not settled, so that others get it at once."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            ids = [message for leased in self._leases.values() for message in leased]
            self._leases.clear()
        with self._trouble_kept():
            self._set_deadlines(ids, 0)

    def note(self) -> str:
        """Say what was left out."""
        counts = (
            (self._duplicates, "repeated notifications"),
            (self._ignored, "notifications about something else"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in counts if count)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and self._trouble is None:
                with self._trouble_kept():
                    self._turn()
        except Exception as error:  # told to the one who waits for arrivals
            self._trouble = error

    def _turn(self) -> None:
        if self._clock() - self._renewed_at >= _RENEW_S:
            self._renew()
        room = 0 if self._ceased else self._most - len(self._leases)
        if room > 0:
            self._pull(min(room, _PULL_MESSAGES))
        else:
            self._stop.wait(0.1)

    @contextmanager
    def _trouble_kept(self) -> Iterator[None]:
        """Warn of what is brief by nature, and go on: nothing is lost, as what was leased comes again.

        What lasts is kept for who waits for arrivals, behind all that has arrived.
        """
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError, TransportError

        try:
            yield
        except (
            TransportError,
            exceptions.Aborted,
            exceptions.Cancelled,
            exceptions.GatewayTimeout,
            exceptions.InternalServerError,
            exceptions.RetryError,
            exceptions.ServiceUnavailable,
            exceptions.TooManyRequests,
            exceptions.Unknown,
        ) as error:
            refused = _refused_credentials(self._client, error)
            if refused is not None:
                self._lost(refused)
                return
            _LOGGER.warning("%s: %s; tried again", self._subscription, getattr(error, "message", error))
            self._stop.wait(_PULL_S)
        except (exceptions.GoogleAPICallError, GoogleAuthError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        reason = getattr(error, "message", None) or error
        self._trouble = self._trouble or StreamLostError(
            f"--subscription {self._subscription}: can no longer be read: {reason}"
        )

    def _pull(self, most: int) -> None:
        from google.api_core.exceptions import DeadlineExceeded

        request = {"subscription": self._subscription, "max_messages": most}
        try:
            messages = self._client.pull(request=request, timeout=_PULL_S, retry=None).received_messages
        except DeadlineExceeded:
            messages = []
        if not messages:
            self._look_for_topic()
            return
        kept: list[str] = []
        done: list[str] = []
        for received in messages:
            is_kept = self._take(received.ack_id, received.message)
            (kept if is_kept else done).append(received.ack_id)
        # At once: the subscription's own deadline may be shorter than a round.
        self._set_deadlines(kept, _LEASE_S)
        self._acknowledge(done)

    def _look_for_topic(self) -> None:
        """A subscription outlives its topic, and would be silent for ever."""
        if self._clock() - self._topic_seen_at < _TOPIC_S:
            return
        self._topic_seen_at = self._clock()
        problem = _topic_problem(self._client, self._subscription)
        if problem is not None:
            raise StreamLostError(problem)

    def _take(self, ack_id: str, message: Any) -> bool:
        """Keep a message until its image is settled; say whether it is kept."""
        ref = ref_of_notification(dict(message.attributes), message.data, message.message_id, self._now())
        if ref is None:
            self._ignored += 1
            return False
        with self._lock:
            leased = self._leases.get(ref.key)
            if leased is not None:
                # Of an image on its way: to be acknowledged with it, and not before.
                self._duplicates += ack_id not in leased
                leased.append(ack_id)
                return True
            if not self._seen.is_new(ref.key):
                self._duplicates += 1
                return False
            self._leases[ref.key] = [ack_id]
        self._arrivals.put(ref)
        return True

    def _renew(self) -> None:
        self._renewed_at = self._clock()
        with self._lock:
            ids = [message for leased in self._leases.values() for message in leased]
        self._set_deadlines(ids, _LEASE_S)

    def _acknowledge(self, ids: Sequence[str]) -> None:
        for some in _batches(ids):
            self._client.acknowledge(request={"subscription": self._subscription, "ack_ids": some})

    def _set_deadlines(self, ids: Sequence[str], seconds: int) -> None:
        for some in _batches(ids):
            self._client.modify_ack_deadline(
                request={
                    "subscription": self._subscription,
                    "ack_ids": some,
                    "ack_deadline_seconds": seconds,
                }
            )


def subscriber() -> Any:
    """Make a client with the user's credentials; an emulator's address is taken from the environment.

    Raises:
        ConfigurationError: The library or credentials are missing.
    """
    try:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import pubsub_v1
    except ImportError as error:
        raise ConfigurationError("--subscription needs google-cloud-pubsub: pip install '.[gcp]'") from error
    try:
        return pubsub_v1.SubscriberClient()
    except DefaultCredentialsError as error:
        raise ConfigurationError(
            "--subscription: no Google credentials (gcloud auth application-default login)"
        ) from error


def subscription_problem(subscription: str) -> str | None:
    """Say why a subscription cannot be read, in seconds; None where it can."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError

    try:
        return _topic_problem(subscriber(), subscription)
    except ConfigurationError as error:
        return error.reasons[0]
    except (GoogleAPICallError, RetryError) as error:
        return f"--subscription {subscription}: {getattr(error, 'message', None) or error}"


def _refused_credentials(client: Any, error: Exception) -> Exception | None:
    """Ask the credentials themselves: gRPC tells of refused ones as of a server that is away."""
    from google.auth.exceptions import GoogleAuthError, RefreshError
    from google.auth.transport.requests import Request

    if "from plugin failed" not in str(error):
        return None
    try:
        client.transport._credentials.refresh(Request())
    except RefreshError as refused:
        return None if refused.retryable else refused
    except GoogleAuthError:
        return None
    return None


def _topic_problem(client: Any, subscription: str) -> str | None:
    found = client.get_subscription(request={"subscription": subscription}, timeout=_ASK_S, retry=None)
    if found.topic != _NO_TOPIC:
        return None
    return f"--subscription {subscription}: its topic was deleted, so that nothing will arrive any more"


def _batches(ids: Sequence[str]) -> Iterator[list[str]]:
    left = iter(ids)
    while some := list(islice(left, _IDS_A_CALL)):
        yield some
