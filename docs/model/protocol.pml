/* The lock protocol for one disk: who may run a guest on it while answers are lost, sessions end and hosts crash.
 *
 * Hosts 0 and 1 run domain 0 and migrate it between them. Host 2 contends: with domain 1 for the same disk, or with
 * domain 0 itself (THIRD). README.md says what is left out, and what each macro of the weakenings takes away.
 *
 * Revisions are not numbers here. A transaction remembers whether what it compares still stands: `fresh` until the
 * domain is rewritten, `epoch` until a barrier rewrites the session's key. Session slots are used again once nothing
 * names them. So runs are of any length, and the state space is finite all the same.
 */

#ifndef THIRD
#define THIRD 1                 /* the domain that host 2 wants: 1, another one with the same disk; or 0 */
#endif
#ifndef HOSTS
#define HOSTS 3                 /* 2: nobody contends */
#endif
#ifndef TROUBLES
#define TROUBLES 1              /* how many sessions end, answers are lost and agents or hosts crash in one run, together */
#endif
#ifndef LATE
#define LATE 1                  /* whether an unanswered transaction may still be under way; 0: it is done or lost */
#endif
#ifndef CRASHES
#define CRASHES 1               /* whether agents crash and hosts lose power */
#endif

#define NOBODY 3                /* no session slot */

#define domain_of(h)  (h == 2 -> THIRD : 0)
#define migrates(h)   (h < 2)
#define peer(h)       (1 - h)

/* A guest. STOPPED: its vCPUs, and QEMU may let it run on unasked. SENT: stopped, and the destination has all of its
 * memory: it runs on only if it is told to. DYING: killed, but not gone: it may still write. */
#define GONE     0
#define WAITING  1              /* started, behind its gate */
#define INCOMING 2
#define READY    3              /* a destination that has all memory */
#define RUNNING  4
#define STOPPED  5
#define SENT     6
#define DYING    7

#define writes(h)    (host[h].guest == RUNNING || host[h].guest == DYING)
#define may_write(h) (writes(h) || host[h].guest == STOPPED)
#define rests_at(h)  (host[h].guest == STOPPED || host[h].guest == SENT)
#define starts_at(h) (host[h].guest == WAITING || host[h].guest == READY)
#define resumes_at(h) (rests_at(h) || (host[h].guest == RUNNING && host[h].rests))
/* A guest that migrates in claims, or nothing. */
#define acquires_at(h) (host[h].guest == WAITING || (host[h].guest == READY && !CLAIM_NEEDS_RUN))

/* A lock, and what an agent believes of it. */
#define FREE   0
#define HELD   1
#define PARKED 2

/* An agent: what it waits for. */
#define IDLE     0
#define ASKING   1              /* its transaction is under way */
#define ANSWERED 2              /* etcd has judged it, the answer is under way */
#define DOUBT    3              /* the answer is lost: nothing is sent before a barrier has been answered */
#define DOWN     4

/* Transactions. */
#define NONE      0
#define ACQUIRE   1
#define TAKE      2
#define CLAIM     3
#define PARK      4
#define UNPARK    5
#define REJOIN    6
#define RELEASE   7
#define HAND_BACK 8
#define BARRIER   9

typedef Host {
    unsigned guest : 3;
    unsigned armed : 2;         /* the session whose deadline the guard stops the guest at */
    unsigned rests : 1;         /* the agent was told that the vCPUs have stopped */
    unsigned now : 2;           /* the latest session … */
    unsigned alive : 1;         /* … and whether its key stands */
    unsigned buried : 2;        /* one bit a session: its obituary is written */
    unsigned agent : 3;
    unsigned belief : 2;        /* FREE: holds nothing */
    unsigned under : 2;         /* the session that the record names, as the agent believes */
    unsigned source : 2;        /* of a claim that nobody was told of: the peer's session that had the lock */
    unsigned run_now : 1;       /* the record's run is the one that was noted when the guest began to migrate in … */
    unsigned run_then : 1;      /* … or will be once a claim is undone */
    unsigned anew : 1;          /* a run was written since the vCPUs stopped */
    unsigned kind : 4;          /* the transaction waited for */
    unsigned by : 2;            /* … the session that sent it */
    unsigned fresh : 1;
    unsigned epoch : 1;
    unsigned said : 2;          /* its answer: the record as it was then, FREE if it names another host */
    unsigned said_under : 2;
    unsigned late_kind : 4;     /* one that nobody waits for any more */
    unsigned late_by : 2;
    unsigned late_fresh : 1;
    unsigned late_epoch : 1
}

typedef Lock {
    unsigned state : 2;
    unsigned disk : 1;
    unsigned owner : 2;
    unsigned under : 2;
    unsigned raised : 1         /* its token is larger than every token that a guest was ever told */
}

Host host[3];
Lock lock[2];
byte troubles = TROUBLES;       /* that may still come */
byte last_told = 0;             /* the host whose guest was last told a token */
bit by_proof = 0;               /* the latest takeover had an obituary for everything that it took */
byte i, o, p, q;                /* scratch, 0 between steps */

#define me        host[h]
#define mine      lock[domain_of(h)]
#define other     lock[1 - domain_of(h)]
#define names_me  (mine.state != FREE && mine.owner == h)
#define dead(h, s) ((host[h].buried >> (s)) & 1)
#define key_stands(h, s) (host[h].now == (s) && host[h].alive)
#define held_by(h, d) (lock[d].state != FREE && lock[d].disk && lock[d].owner == h)
/* Whether anything still refers to a session, so that its slot may not be another one's yet. */
#define in_lock(d, h, s) (lock[d].state != FREE && lock[d].owner == h && lock[d].under == (s))
#define named(h, s) (in_lock(0, h, s) || in_lock(1, h, s) || (host[h].now == (s)) || host[h].armed == (s) \
    || (host[h].belief != FREE && host[h].under == (s)) || (host[h].kind != NONE && host[h].by == (s)) \
    || (host[h].late_kind != NONE && host[h].late_by == (s)) || (host[h].said != FREE && host[h].said_under == (s)) \
    || (migrates(h) && host[peer(h)].source == (s)))
#define unused(h) (!named(h, 0) || !named(h, 1))

#define disk_taken ((lock[0].state != FREE && lock[0].disk) || (lock[1].state != FREE && lock[1].disk))
#define proven(l) dead(l.owner, l.under)

#include "weakenings.pml"

/* What must be proven before the disk may be taken: whoever has the domain, and whoever has the disk. */
#define in_the_way  (mine.state != FREE || (other.state != FREE && other.disk))
#define may_take    ((mine.state == FREE || PROOF(mine)) && (other.state == FREE || !other.disk || PROOF(other)))

/* --- etcd: a transaction is judged in one step --------------------------------------------------------------- */

#define own(h, s, e)      (OWN_COMPARED -> (key_stands(h, s) && (e)) : 1)
#define hopeless(h)       (host[h].late_kind != NONE && !LATE_COMES_TRUE(h))
#define LATE_COMES_TRUE(h) (judged_own(h, host[h].late_kind, host[h].late_by, host[h].late_epoch) && \
                           (host[h].late_fresh || !compares_domain(host[h].late_kind)))
#define judged_own(h, k, s, e) (k == BARRIER -> key_stands(h, s) : (k == HAND_BACK && !HAND_BACK_COMPARES -> 1 : own(h, s, e)))
#define compares_domain(k) (k != ACQUIRE && k != BARRIER && !(k == CLAIM && !CLAIM_COMPARES) && \
    !(k == UNPARK && !UNPARK_COMPARES) && !(k == REJOIN && !REJOIN_COMPARES) && !(k == TAKE && !TAKE_COMPARES) && \
    !(k == HAND_BACK && !HAND_BACK_COMPARES))

inline forget_hopeless() {
    for (i : 0 .. 2) {
        if
        :: hopeless(i) -> clear_late(i)
        :: else
        fi;
        host[i].buried = host[i].buried & (named(i, 0) + 2 * named(i, 1))
    }
    i = 0
}

inline clear_late(x) {
    host[x].late_kind = NONE; host[x].late_by = 0; host[x].late_fresh = 0; host[x].late_epoch = 0
}

/* A record was rewritten: whatever compares its revision, or is a takeover that may compare it, fails from now on. */
inline rewritten(d) {
    for (i : 0 .. 2) {
        if
        :: domain_of(i) == d || host[i].kind == TAKE -> host[i].fresh = 0
        :: else
        fi;
        if
        :: domain_of(i) == d || host[i].late_kind == TAKE -> host[i].late_fresh = 0
        :: else
        fi
    }
    i = 0
}

/* Another run is written: whatever was noted before is not the latest any more. A claim's may yet be undone. */
inline another_run(d, is_claim) {
    if
    :: d == 0 ->
        for (i : 0 .. 1) {
            host[i].run_then = (is_claim -> host[i].run_now : 0);
            host[i].run_now = 0
        }
        i = 0
    :: else
    fi
}

inline earlier_run() {
    for (i : 0 .. 1) {
        host[i].run_now = host[i].run_then; host[i].run_then = 0
    }
    i = 0
}

inline own_it(h, slot_, state_, new_token) {
    if
    :: migrates(h) -> by_proof = 0
    :: else
    fi;
    mine.disk = mine.disk || mine.state == FREE; mine.state = state_; mine.owner = h; mine.under = slot_;
    if
    :: new_token -> mine.raised = 1
    :: else
    fi;
    rewritten(domain_of(h))
}

inline free(d) {
    lock[d].state = FREE; lock[d].disk = 0; lock[d].owner = 0; lock[d].under = 0; lock[d].raised = 0
}

inline take_it(h, s) {
    o = (mine.state == FREE || proven(mine)) && (other.state == FREE || !other.disk || proven(other));
    if
    :: other.state != FREE && other.disk -> other.disk = 0; rewritten(1 - domain_of(h))
    :: else
    fi;
    own_it(h, s, HELD, 1);
    mine.disk = 1;
    by_proof = o
}

inline begin_epoch(h, s) {
    if
    :: key_stands(h, s) ->
        if
        :: host[h].by == s -> host[h].epoch = 0
        :: else
        fi;
        if
        :: host[h].late_by == s -> host[h].late_epoch = 0
        :: else
        fi
    :: else
    fi
}

inline hand_it_back(h) {
    mine.state = PARKED; mine.owner = peer(h); mine.raised = 0;
    mine.under = (me.source != NOBODY -> me.source : host[peer(h)].now);
    earlier_run();
    rewritten(domain_of(h))
}

inline commit(h, kind_, by_, fresh_, epoch_) {
    o = judged_own(h, kind_, by_, epoch_);
    q = fresh_ || !compares_domain(kind_);
    if
    :: kind_ == BARRIER -> begin_epoch(h, by_)
    :: kind_ == ACQUIRE && o && mine.state == FREE && (!disk_taken || !ACQUIRE_COMPARES_DISK) -> own_it(h, by_, HELD, 1); another_run(domain_of(h), 0)
    :: kind_ == TAKE && o && q && (may_take || !TAKE_COMPARES) -> take_it(h, by_); another_run(domain_of(h), 0)
    :: kind_ == CLAIM && o && q && (mine.state == PARKED || !CLAIM_NEEDS_PARKED) -> own_it(h, by_, HELD, CLAIM_RAISES); another_run(domain_of(h), 1)
    :: kind_ == PARK && o && q -> mine.state = PARKED; rewritten(domain_of(h))
    :: kind_ == UNPARK && o && q -> own_it(h, by_, HELD, 0); another_run(domain_of(h), 0); me.anew = rests_at(h) || me.guest == RUNNING
    :: kind_ == REJOIN && o && q && !REJOIN_COMPARES -> own_it(h, by_, me.belief, 0)
    :: kind_ == REJOIN && o && q && REJOIN_COMPARES -> mine.under = by_; rewritten(domain_of(h))
    :: kind_ == RELEASE && o && q -> free(domain_of(h)); rewritten(domain_of(h)); another_run(domain_of(h), 0)
    :: kind_ == HAND_BACK && o && q && (me.source != NOBODY || !HAND_BACK_COMPARES) -> hand_it_back(h)
    :: else
    fi
    o = 0; q = 0
}

/* --- the agent's own steps ------------------------------------------------------------------------------------ */

inline ask(h, k) {
    me.agent = ASKING; me.kind = k; me.by = me.now; me.fresh = 1; me.epoch = 1
}

inline clear_asked(h) {
    me.kind = NONE; me.by = 0; me.fresh = 0; me.epoch = 0; me.said = FREE; me.said_under = 0
}

inline believe_nothing(h) {
    me.belief = FREE; me.under = NOBODY; me.source = NOBODY; me.rests = 0
}

/* Take in what the record says of us. A guest that runs by our word on a lock that is not ours is killed. */
inline believe(h, state_, slot_) {
    if
    :: state_ == FREE || (state_ == PARKED && (starts_at(h) || me.guest == INCOMING)) ->
        if
        :: me.guest == RUNNING && !me.rests -> me.guest = DYING
        :: else
        fi;
        believe_nothing(h)
    :: else ->
        me.belief = state_; me.under = slot_;
        if
        :: state_ == PARKED -> me.rests = 1
        :: else
        fi
    fi
}

inline answer_lost(h) {
    if
    :: me.agent == ASKING && me.late_kind == NONE && LATE && me.kind != BARRIER ->
        me.late_kind = me.kind; me.late_by = me.by; me.late_fresh = me.fresh; me.late_epoch = me.epoch
    :: else
    fi;
    clear_asked(h);
    forget_hopeless()
}

/* A yes: the guest runs from here on. Its token must not be smaller than any that was told, nor another host's. */
inline tell_yes(h) {
    assert(!names_me || mine.raised || last_told == h);     /* P6 */
    mine.raised = 0;
    last_told = h;
    ARM_AT_YES(h);
    me.guest = RUNNING; me.rests = 0; me.anew = 0; me.run_now = 0; me.run_then = 0; me.source = NOBODY
}

inline end_guest(x) {
    host[x].guest = GONE; host[x].armed = NOBODY; host[x].run_now = 0; host[x].run_then = 0; host[x].anew = 0
}

inline join_anew(h) {
    p = (named(h, 0) -> 1 : 0);
    me.now = p; me.alive = 1; me.buried = me.buried & (3 - (1 << p)); p = 0
}

#define free_to_act (me.agent == IDLE && me.alive)
#define holds_now   (me.belief != FREE && me.under == me.now)
#define in_time     (me.armed == me.now && !dead(h, me.now))

/* An obituary: the key is gone, and whatever was to be stopped by that session's deadline, or by the earlier one of an
 * earlier session, is gone. */
#define stopped_under(h, s) (host[h].armed == NOBODY || (host[h].armed == host[h].now && host[h].now != (s)))
#define may_bury(h, s) (!dead(h, s) && !key_stands(h, s) && named(h, s) && (stopped_under(h, s) || BURIES_EARLY))
#define bury(h, s) host[h].buried = host[h].buried | (1 << (s))

proctype agent_and_guest(byte h) {
    do
    /* the guest */
    :: d_step { me.guest == GONE && me.agent == IDLE && me.belief == FREE -> printf("host %d: starts a guest\n", h); me.guest = WAITING }
    :: d_step { migrates(h) && me.guest == GONE && me.agent == IDLE && me.belief == FREE &&
        (host[peer(h)].guest == RUNNING || host[peer(h)].guest == STOPPED) -> printf("host %d: starts a guest that migrates in\n", h);
        me.guest = INCOMING; me.run_now = (mine.state != FREE); me.run_then = 0 }
    :: d_step { me.guest == RUNNING -> printf("host %d: its guest's vCPUs stop\n", h); me.guest = STOPPED; me.rests = (me.agent != DOWN); me.anew = 0; DISARM_AT_REST(h) }
    :: d_step { me.guest == STOPPED -> printf("host %d: its guest runs on unasked\n", h); me.guest = RUNNING }                     /* unasked */
    :: d_step { migrates(h) && me.guest == STOPPED && host[peer(h)].guest == INCOMING -> printf("host %d: its guest has sent all memory\n", h);
        me.guest = SENT; me.anew = 0; host[peer(h)].guest = READY }
    :: d_step { me.guest == RUNNING -> printf("host %d: its guest is killed\n", h); me.guest = DYING; DISARM_AT_KILL(h) }
    :: d_step { me.guest != GONE && me.guest != RUNNING -> printf("host %d: its guest is gone\n", h); end_guest(h) }

    /* the session */
    :: d_step { me.alive && troubles > 0 -> troubles--; printf("host %d: its session's key is gone\n", h); me.alive = 0; forget_hopeless() }                   /* expired, revoked, or left */
    :: d_step { !me.alive && me.agent != DOWN && unused(h) -> printf("host %d: joins anew\n", h); join_anew(h) }
    :: d_step { may_bury(h, 0) -> printf("host %d: obituary of its session 0\n", h); bury(h, 0) }
    :: d_step { may_bury(h, 1) -> printf("host %d: obituary of its session 1\n", h); bury(h, 1) }

    /* taking */
    :: d_step { free_to_act && acquires_at(h) && me.belief == FREE && mine.state == FREE && !disk_taken -> printf("host %d: sends acquire\n", h); ask(h, ACQUIRE) }
    :: d_step { free_to_act && acquires_at(h) && me.belief == FREE && in_the_way && may_take -> printf("host %d: sends takeover\n", h); ask(h, TAKE) }
    :: d_step { free_to_act && migrates(h) && (me.guest == READY || (me.guest == INCOMING && CLAIMS_EARLY)) &&
        me.belief == FREE && (mine.state == PARKED || (mine.state == HELD && !CLAIM_NEEDS_PARKED)) &&
        mine.owner == peer(h) && (me.run_now || !CLAIM_NEEDS_RUN) -> printf("host %d: sends claim\n", h); ask(h, CLAIM); me.source = mine.under }
    :: d_step { (me.agent == ASKING || me.agent == ANSWERED) && starts_at(h) && me.kind <= CLAIM && me.kind != NONE &&
        me.armed != me.by && !dead(h, me.by) -> printf("host %d: arms its guest\n", h); me.armed = me.by }
    :: d_step { me.agent == IDLE && (holds_now || (me.belief != FREE && ARMS_BEFORE_REJOIN)) && me.guest != GONE &&
        me.armed != me.now && !dead(h, me.now) && MAY_ARM(h) -> printf("host %d: arms its guest under its latest session\n", h); me.armed = me.now }
    :: d_step { me.agent == IDLE && holds_now && me.belief == HELD && YES_ALLOWED(h) && (mine.disk || !names_me || !YES_NEEDS_DISK) &&
        (starts_at(h) || (me.guest == INCOMING && CLAIMS_EARLY) || (resumes_at(h) && (me.anew || !RESUME_WRITES))) -> printf("host %d: says yes: its guest runs\n", h); tell_yes(h) }
    :: d_step { YES_UNANSWERED(h) && rests_at(h) -> printf("host %d: says yes before etcd has answered\n", h); tell_yes(h) }

    /* going on, and giving back */
    :: d_step { free_to_act && holds_now && me.belief == HELD && me.rests && names_me -> printf("host %d: sends park\n", h); ask(h, PARK) }
    :: d_step { free_to_act && holds_now && names_me && (me.belief == PARKED || (me.belief == HELD && !me.anew && resumes_at(h))) &&
        (rests_at(h) || me.guest == RUNNING) -> printf("host %d: sends unpark\n", h); ask(h, UNPARK) }
    :: d_step { free_to_act && me.belief != FREE && me.under != me.now && names_me && mine.under == me.under -> printf("host %d: sends re-join\n", h); ask(h, REJOIN) }
    :: d_step { free_to_act && holds_now && me.source == NOBODY && names_me && RELEASABLE(h) -> printf("host %d: sends release\n", h); ask(h, RELEASE) }
    :: d_step { free_to_act && holds_now && me.source != NOBODY && names_me && (me.guest == READY || me.guest == GONE) -> printf("host %d: sends hand-back\n", h); ask(h, HAND_BACK) }
    :: d_step { me.agent == IDLE && me.belief != FREE && !names_me -> printf("host %d: learns that it has lost its lock\n", h); p = FREE; q = NOBODY; believe(h, p, q); p = 0; q = 0 }
    :: d_step { me.agent == IDLE && me.belief == FREE && (rests_at(h) || me.guest == GONE) && names_me &&
        mine.state == PARKED -> printf("host %d: finds its lock handed back\n", h);
        p = PARKED; q = mine.under; believe(h, p, q); p = 0; q = 0 }                          /* handed back */

    /* answers, and none */
    :: d_step { me.agent == ASKING -> printf("host %d: etcd judges its transaction\n", h); commit(h, me.kind, me.by, me.fresh, me.epoch);
        me.said = (names_me -> mine.state : FREE); me.said_under = (names_me -> mine.under : 0);
        me.agent = ANSWERED; me.fresh = 0; me.epoch = 0; forget_hopeless() }
    :: d_step { me.late_kind != NONE -> printf("host %d: etcd judges its late transaction\n", h); commit(h, me.late_kind, me.late_by, me.late_fresh, me.late_epoch);
        clear_late(h); forget_hopeless() }
    :: d_step { me.agent == ANSWERED -> printf("host %d: takes in the answer\n", h); me.agent = IDLE;
        p = me.said; q = me.said_under; believe(h, p, q); p = 0; q = 0; clear_asked(h);
        if
        :: starts_at(h) && me.belief != FREE && me.armed == NOBODY && KILLS_UNARMED -> end_guest(h)
        :: else
        fi }
    :: d_step { (me.agent == ASKING || me.agent == ANSWERED) && troubles > 0 -> troubles--; printf("host %d: gets no answer\n", h); p = AFTER_LOSS(me.kind); answer_lost(h); me.agent = p; p = 0 }
    :: d_step { me.agent == DOUBT && SETTLES_BY_BARRIER -> printf("host %d: sends a barrier\n", h); ask(h, BARRIER) }
    :: d_step { me.agent == DOUBT && !SETTLES_BY_BARRIER -> printf("host %d: reads instead\n", h); me.agent = IDLE;
        p = (names_me -> mine.state : FREE); q = mine.under; believe(h, p, q); p = 0; q = 0 }

    /* crashes: the guard keeps what is armed; a host that loses power loses its guest, too */
    :: d_step { CRASHES && me.agent != DOWN && troubles > 0 -> troubles--; printf("host %d: its agent crashes\n", h); believe_nothing(h); answer_lost(h); me.agent = DOWN }
    :: d_step { CRASHES && me.agent != DOWN && troubles > 0 -> troubles--; printf("host %d: it loses power\n", h); end_guest(h); believe_nothing(h); answer_lost(h); me.agent = DOWN }
    :: d_step { me.agent == DOWN -> printf("host %d: its agent starts again\n", h); me.agent = DOUBT }
    od
}

/* --- what must hold ------------------------------------------------------------------------------------------- */

#define count_writing (writes(0) + writes(1) + writes(2))
#define on_own_lock(h) (!may_write(h) || held_by(h, domain_of(h)))
#define migrating(h) (rests_at(h) && (host[peer(h)].guest == INCOMING || host[peer(h)].guest == READY))
#define no_gap(h) (!migrating(h) || held_by(h, 0) || held_by(peer(h), 0) || by_proof)
#define forgotten(h) (host[h].agent == IDLE && host[h].belief == FREE && lock[domain_of(h)].state == HELD && \
    lock[domain_of(h)].owner == h && key_stands(h, lock[domain_of(h)].under))

/* It moves only when something is broken, so it adds no states. */
active proctype judge() {
end:
    if
    :: d_step { count_writing > 1 -> assert(false) }                                    /* P1 one writer */
    :: d_step { !(on_own_lock(0) && on_own_lock(1) && on_own_lock(2)) -> assert(false) } /* P1 its own lock */
    :: d_step { !(no_gap(0) && no_gap(1)) -> assert(false) }                            /* P3 */
    :: d_step { forgotten(0) || forgotten(1) || forgotten(2) -> assert(false) }         /* P5 */
    fi
}

init {
    d_step {
        for (i : 0 .. 2) {
            host[i].alive = 1; host[i].armed = NOBODY; host[i].under = NOBODY; host[i].source = NOBODY
        }
        host[0].guest = RUNNING; host[0].armed = 0; host[0].belief = HELD; host[0].under = 0;
        lock[0].state = HELD; lock[0].disk = 1
    }
    atomic {
        run agent_and_guest(0);
        run agent_and_guest(1);
        if
        :: HOSTS == 3 -> run agent_and_guest(2)
        :: else
        fi
    }
}
