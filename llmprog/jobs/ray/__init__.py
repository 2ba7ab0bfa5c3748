"""The rows of a job on Ray workers: they search and call models; this process keeps the journal and the budget.

::

    owner (Job)                                       worker (an async Ray actor)
    Cluster     starts or joins Ray
    RayExecutor gives rows out, replaces the dead
    Worker      one worker as the owner sees it  <->  RowWorker   runs rows with LocalExecutor
    Desk        journal, budget, rate limits     <->  RemoteJournal, RemoteLedger, RemoteShare

Both sides send batches: whatever has gathered while the batch before was on its way.
"""
