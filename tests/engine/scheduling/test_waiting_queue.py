"""Whose turn it is, beside a model that keeps everything in one list and counts in fractions."""

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from attendant_engine.scheduling.fair_share import CREDIT_TOKENS, FairShares
from attendant_engine.scheduling.waiting_queue import WaitingQueue
from attendant_engine.service_order import PRIORITY_STEP_S, Key, order_key
from attendant_engine.workload import Work, Workload

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}


@dataclass(frozen=True)
class Item:
    """What waits, and the tokens that its turn takes."""

    key: Key
    tenant: str
    num_tokens: int

    @property
    def work(self) -> Work:
        return Work(1, self.num_tokens, 0)


class Model:
    """Fair queueing as in a textbook: everything in one list, service in fractions."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.service: dict[str, Fraction] = {}

    def push(self, item: Item) -> None:
        if item.tenant not in self.active:
            if not self.active:
                self.service.clear()
            ahead = max((self.service[tenant] for tenant in self.active), default=Fraction(CREDIT_TOKENS)) - CREDIT_TOKENS
            self.service[item.tenant] = max(self.service.get(item.tenant, ahead), ahead)
        self.items.append(item)

    @property
    def active(self) -> set[str]:
        return {item.tenant for item in self.items}

    def pop(self) -> Item:
        item = min(self.items, key=lambda item: (self.service[item.tenant], item.key))
        self.service[item.tenant] += item.num_tokens / Fraction(WEIGHTS[item.tenant])
        self.items.remove(item)
        return item


_arrivals = st.tuples(st.sampled_from("abc"), st.integers(1, 9000), st.integers(-2, 2))


@given(st.lists(st.one_of(_arrivals, st.none(), st.none()), max_size=80))
@settings(max_examples=200, deadline=None)
def test_turns_are_those_of_a_model_of_fair_queueing(events: list[tuple[str, int, int] | None]) -> None:
    shares = FairShares()
    queue, model = WaitingQueue[Item](shares, Workload()), Model()
    for arrival, event in enumerate(events):  # an arrival, or the next one's turn
        if event is not None:
            tenant, num_tokens, priority = event
            item = Item(order_key(100.0 + arrival, priority, arrival), tenant, num_tokens)
            shares.enter(tenant, WEIGHTS[tenant])
            queue.push(item)
            model.push(item)
        elif model.items:
            head = queue.head()
            assert head is model.pop()
            queue.remove(head)
            shares.charge(head.tenant, head.num_tokens)
            shares.leave(head.tenant)
        queue.check_integrity()
        assert sorted(queue, key=lambda item: item.key) == sorted(model.items, key=lambda item: item.key)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500)), min_size=60, max_size=150))
@settings(max_examples=100, deadline=None)
def test_tenants_that_always_wait_get_tokens_by_weight_within_one_turn_and_the_first_ones_credit(costs: list[tuple[str, int]]) -> None:
    shares = FairShares()
    queue = WaitingQueue[Item](shares, Workload())
    served: defaultdict[str, float] = defaultdict(float)
    for arrival, (tenant, cost) in enumerate(sorted(costs)):
        shares.enter(tenant, WEIGHTS[tenant])
        queue.push(Item((0.0, arrival, 0), tenant, cost))
    while {item.tenant for item in queue} == set(WEIGHTS):
        head = queue.head()
        assert head is not None
        queue.remove(head)
        shares.charge(head.tenant, head.num_tokens)
        served[head.tenant] += head.num_tokens / WEIGHTS[head.tenant]
        assert max(served.values()) - min(served[tenant] for tenant in WEIGHTS) <= CREDIT_TOKENS + 500 / min(WEIGHTS.values())


def test_within_a_tenant_priority_goes_first_and_age_makes_up_for_it() -> None:
    shares = FairShares()
    shares.enter("a", 1.0)
    queue = WaitingQueue[Item](shares, Workload())
    patient = Item(order_key(100.0, 1, 0), "a", 1)
    late = Item(order_key(100.0 + PRIORITY_STEP_S + 1, 0, 1), "a", 1)
    early = Item(order_key(100.0 + PRIORITY_STEP_S - 1, 0, 2), "a", 1)
    for item in (patient, late, early):
        queue.push(item)
    order = []
    while (head := queue.head()) is not None:
        queue.remove(head)
        order.append(head)
    assert order == [early, patient, late]


def test_a_place_behind_others_of_its_own_can_be_asked_for() -> None:
    shares = FairShares()
    queue = WaitingQueue[Item](shares, Workload())
    items = [Item((float(place), place, 0), tenant, 1) for place, tenant in enumerate("aab")]
    for item in items:
        shares.enter(item.tenant, 1.0)
        queue.push(item)
    shares.charge("b", CREDIT_TOKENS + 1)
    assert [queue.head(), queue.head({"a": 1}), queue.head({"a": 2}), queue.head({"a": 2, "b": 1})] == [*items, None]


def test_a_tenant_that_comes_back_may_be_ahead_by_its_credit_and_no_more() -> None:
    shares = FairShares()
    shares.enter("busy", 1.0)
    shares.charge("busy", 100_000)
    shares.enter("back", 2.0)
    assert shares.service("busy") - shares.service("back") == CREDIT_TOKENS
    shares.charge("back", 4 * CREDIT_TOKENS)
    shares.leave("back")
    shares.enter("back", 2.0)
    assert shares.service("back") - shares.service("busy") == CREDIT_TOKENS, "what it has had is not forgotten by leaving"
