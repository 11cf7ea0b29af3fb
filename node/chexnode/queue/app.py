"""The Celery application: made when a worker starts, never at import."""

from __future__ import annotations

from pathlib import Path

from celery import Celery

from chexnode.queue.broker import QUEUES, connection_options


def make_app(url: str, data_dir: Path) -> Celery:
    """A Celery application for ``[broker] url`` that keeps no results and trusts no message with more than a wake-up.

    Messages are acknowledged when taken: the ledger, not the broker, knows what is unfinished.
    """
    made = connection_options(url, data_dir)
    app = Celery("chexnode", set_as_current=False)
    app.conf.update(
        broker_url=made["url"],
        broker_transport=made["transport"],
        broker_transport_options=made["options"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_queues=list(QUEUES.values()),
        task_create_missing_queues=False,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app
