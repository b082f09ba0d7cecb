/* poll.c: long work without the GIL that Ctrl-C can still end.
 *
 * The calling thread looks at signals now and then; it takes the GIL for that, so no more often than 200 ms need.
 */
#include "python/binding.h"

enum { POLL_MILLISECONDS = 50 };

void sp_poll_start(struct sp_poll *poll)
{
	clock_gettime(CLOCK_MONOTONIC, &poll->last);
	poll->thread = PyEval_SaveThread();
}

void sp_poll_end(struct sp_poll *poll)
{
	PyEval_RestoreThread(poll->thread);
}

int sp_poll_signals(void *arg)
{
	struct sp_poll *poll = arg;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	int64_t elapsed =
		(int64_t)(now.tv_sec - poll->last.tv_sec) * 1000 + (now.tv_nsec - poll->last.tv_nsec) / 1000000;
	if (elapsed < POLL_MILLISECONDS)
		return 0;
	poll->last = now;
	PyEval_RestoreThread(poll->thread);
	int signalled = PyErr_CheckSignals() < 0;
	poll->thread = PyEval_SaveThread();
	return signalled;
}
