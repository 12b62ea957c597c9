/* Each macro takes one thing away that keeps the protocol safe. */

#ifdef NO_SESSION_COMPARE
#define OWN_COMPARED 0
#else
#define OWN_COMPARED 1
#endif

#ifdef ACQUIRE_WITHOUT_RIVALS
#define ACQUIRE_COMPARES_DISK 0
#else
#define ACQUIRE_COMPARES_DISK 1
#endif

#ifdef CLAIM_WITHOUT_COMPARE
#define CLAIM_COMPARES 0
#else
#define CLAIM_COMPARES 1
#endif

#ifdef CLAIM_WITHOUT_COMPARE
#define CLAIM_NEEDS_PARKED 0
#else
#define CLAIM_NEEDS_PARKED 1
#endif

#ifdef TOKEN_KEPT
#define CLAIM_RAISES 0
#else
#define CLAIM_RAISES 1
#endif

#ifdef UNPARK_WITHOUT_COMPARE
#define UNPARK_COMPARES 0
#else
#define UNPARK_COMPARES 1
#endif

#ifdef REJOIN_WITHOUT_COMPARE
#define REJOIN_COMPARES 0
#else
#define REJOIN_COMPARES 1
#endif

#ifdef TAKE_WITHOUT_COMPARE
#define TAKE_COMPARES 0
#else
#define TAKE_COMPARES 1
#endif

#ifdef HAND_BACK_WITHOUT_COMPARE
#define HAND_BACK_COMPARES 0
#else
#define HAND_BACK_COMPARES 1
#endif

#if defined(TAKE_WITHOUT_PROOF)
#define PROOF(l) 1
#elif defined(PARKED_WITHOUT_PROOF)
#define PROOF(l) (proven(l) || (l.state == PARKED && !key_stands(l.owner, l.under)))
#else
#define PROOF(l) proven(l)
#endif

#ifdef READ_NOT_BARRIER
#define SETTLES_BY_BARRIER 0
#else
#define SETTLES_BY_BARRIER 1
#endif

#ifdef BLIND_RETRY
#define AFTER_LOSS(k) (k == ACQUIRE -> IDLE : DOUBT)
#else
#define AFTER_LOSS(k) DOUBT
#endif

#if defined(LATE_YES)
#define YES_ALLOWED(h) 1
#elif defined(UNARMED_YES) || defined(RESTING_DISARMED)
#define YES_ALLOWED(h) !dead(h, me.now)
#else
#define YES_ALLOWED(h) in_time
#endif

#if defined(LATE_YES) || defined(UNARMED_YES)
#define KILLS_UNARMED 0
#else
#define KILLS_UNARMED 1
#endif

#if defined(LATE_YES) || defined(RESTING_DISARMED)
#define ARM_AT_YES(h) me.armed = me.now
#else
#define ARM_AT_YES(h) skip
#endif

#ifdef RESTING_DISARMED
#define DISARM_AT_REST(h) me.armed = NOBODY
#define MAY_ARM(h) !me.rests
#else
#define DISARM_AT_REST(h) skip
#define MAY_ARM(h) 1
#endif

#ifdef DISARM_EARLY
#define DISARM_AT_KILL(h) me.armed = NOBODY
#else
#define DISARM_AT_KILL(h) skip
#endif

#ifdef RELEASE_EARLY
#define RELEASABLE(h) (me.guest == GONE || me.guest == DYING)
#else
#define RELEASABLE(h) (me.guest == GONE)
#endif

#ifdef ARM_BEFORE_REJOIN
#define ARMS_BEFORE_REJOIN 1
#else
#define ARMS_BEFORE_REJOIN 0
#endif

#ifdef OBITUARY_EARLY
#define BURIES_EARLY 1
#else
#define BURIES_EARLY 0
#endif

#ifdef CLAIM_EARLY
#define CLAIMS_EARLY 1
#else
#define CLAIMS_EARLY 0
#endif

#ifdef CLAIM_WITHOUT_RUN
#define CLAIM_NEEDS_RUN 0
#else
#define CLAIM_NEEDS_RUN 1
#endif

#ifdef RESUME_WITHOUT_RUN
#define RESUME_WRITES 0
#else
#define RESUME_WRITES 1
#endif

#ifdef YES_WITHOUT_DISK
#define YES_NEEDS_DISK 0
#else
#define YES_NEEDS_DISK 1
#endif

#ifdef BLIND_UNPARK
#define YES_UNANSWERED(h) (me.agent == ASKING && me.kind == UNPARK)
#else
#define YES_UNANSWERED(h) 0
#endif
