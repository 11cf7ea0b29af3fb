"""The ledger: the only writer of state, one object with a room for each noun.

Truth is the database. Everything else (broker messages, files without a row, what a worker remembers) may be lost at
any moment and costs only time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from chexnode.ledger.account import Accounts
from chexnode.ledger.alarms import Alarms
from chexnode.ledger.commitments import Commitments
from chexnode.ledger.comparisons import Comparisons
from chexnode.ledger.database import Database
from chexnode.ledger.deliveries import Deliveries
from chexnode.ledger.destinations import Destinations
from chexnode.ledger.drift import Drifts
from chexnode.ledger.durations import Stopwatch
from chexnode.ledger.erasures import Erasures
from chexnode.ledger.feed import Feed
from chexnode.ledger.files import Files
from chexnode.ledger.holdings import Holdings
from chexnode.ledger.identities import Identities
from chexnode.ledger.images import Images
from chexnode.ledger.instances import Instances
from chexnode.ledger.jobs import Jobs
from chexnode.ledger.leases import Leases
from chexnode.ledger.migrate import check_schema
from chexnode.ledger.objects import Objects
from chexnode.ledger.overview import Overviews
from chexnode.ledger.reanalysis import Reanalyses
from chexnode.ledger.rejections import Rejections
from chexnode.ledger.reports import Reports
from chexnode.ledger.sets import Sets
from chexnode.ledger.studies import Studies
from chexnode.ledger.subjects import Subjects
from chexnode.ledger.tokens import Tokens
from chexnode.ledger.users import Users
from chexnode.ledger.views import Views
from chexnode.ledger.work import Work


class Ledger:
    """Open the ledger at ``url``; raise BadEnvironment if there is none or its schema is not this release's."""

    def __init__(self, url: str, clock: Callable[[], datetime] | None = None) -> None:
        self.database = Database(url, clock, must_exist=True)
        check_schema(self.database)
        self.instances = Instances(self.database)
        self.jobs = Jobs(self.database)
        self.deliveries = Deliveries(self.database)
        self.destinations = Destinations(self.database)
        self.commitments = Commitments(self.database)
        self.leases = Leases(self.database)
        self.sets = Sets(self.database)
        self.reanalyses = Reanalyses(self.database)
        self.comparisons = Comparisons(self.database)
        self.drifts = Drifts(self.database)
        self.studies = Studies(self.database)
        self.reports = Reports(self.database)
        self.subjects = Subjects(self.database)
        self.files = Files(self.database)
        self.erasures = Erasures(self.database)
        self.identities = Identities(self.database)
        self.rejections = Rejections(self.database)
        self.holdings = Holdings(self.database)
        self.objects = Objects(self.database)
        self.tokens = Tokens(self.database)
        self.users = Users(self.database)
        self.alarms = Alarms(self.database)
        self.views = Views(self.database)
        self.feed = Feed(self.database)
        self.stopwatch = Stopwatch(self.database)
        self.images = Images(self.database)
        self.overviews = Overviews(self.database)
        self.work = Work(self.database)
        self.accounts = Accounts(self.database)

    @property
    def clock(self) -> Callable[[], datetime]:
        """The clock all moves are stamped with."""
        return self.database.clock

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
