/* Proves rt/spin.h: when a spin is worth it, and how seldom it is where it is always in vain. */
#include "../rt/spin.h"
#include "check.h"

static void learn(struct fr_spin *spin, enum fr_spin_end end, int times)
{
    for (int i = 0; i < times; i++) {
        fr_spin_learn(spin, end);
    }
}

static void test_short_waits_make_it_worth(void)
{
    struct fr_spin spin = {0};
    CHECK(!fr_spin_is_worth(&spin));
    learn(&spin, FR_SPIN_SHORT, FR_SPIN_WORTH - 1);
    CHECK(!fr_spin_is_worth(&spin));
    learn(&spin, FR_SPIN_SHORT, 1);
    CHECK(fr_spin_is_worth(&spin));
    learn(&spin, FR_SPIN_LONG, 1);
    CHECK(!fr_spin_is_worth(&spin));
}

static void test_long_waits_never_do(void)
{
    struct fr_spin spin = {0};
    for (int i = 0; i < 1000; i++) {
        learn(&spin, FR_SPIN_LONG, 1);
        CHECK(!fr_spin_is_worth(&spin));
        learn(&spin, FR_SPIN_SHORT, FR_SPIN_WORTH - 1);
        CHECK(!fr_spin_is_worth(&spin));
    }
}

/* [W2]: all waits are short, all spins are in vain. */
static void test_vain_spins_become_rare(void)
{
    struct fr_spin spin = {0};
    int vain = 0;
    enum { WAITS = 100000 };
    for (int i = 0; i < WAITS; i++) {
        if (fr_spin_is_worth(&spin)) {
            learn(&spin, FR_SPIN_VAIN, 1);
            vain++;
        }
        learn(&spin, FR_SPIN_SHORT, 1);
    }
    CHECK(vain > 0);
    CHECK(vain <= WAITS / FR_SPIN_DEBT_MAX + 8);
}

/* After any number of vain ones, it is tried again, and hits make up for them. */
static void test_hits_make_up(void)
{
    struct fr_spin spin = {0};
    learn(&spin, FR_SPIN_SHORT, FR_SPIN_SURE);
    for (int i = 0; i < 100; i++) {
        while (!fr_spin_is_worth(&spin)) {
            learn(&spin, FR_SPIN_SHORT, 1);
        }
        learn(&spin, FR_SPIN_VAIN, 1);
    }
    int waits = 0;
    for (; !fr_spin_is_worth(&spin); waits++) {
        learn(&spin, FR_SPIN_SHORT, 1);
    }
    CHECK(waits <= FR_SPIN_DEBT_MAX + FR_SPIN_SURE);
    learn(&spin, FR_SPIN_HIT, 20);
    learn(&spin, FR_SPIN_VAIN, 1);
    CHECK(fr_spin_is_worth(&spin)); /* one vain spin among many hits is forgiven */
    learn(&spin, FR_SPIN_VAIN, 1);
    CHECK(!fr_spin_is_worth(&spin));
}

static void test_slept(void)
{
    CHECK(fr_spin_slept(1000, 1000 + FR_SPIN_SHORT_NS - 1) == FR_SPIN_SHORT);
    CHECK(fr_spin_slept(1000, 1000 + FR_SPIN_SHORT_NS) == FR_SPIN_LONG);
    CHECK(fr_spin_slept(1000, 900) == FR_SPIN_SHORT); /* another thread's later clock */
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    test_short_waits_make_it_worth();
    test_long_waits_never_do();
    test_vain_spins_become_rare();
    test_hits_make_up();
    test_slept();
    return check_end();
}
