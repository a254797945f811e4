// A WebApp operator on controller-runtime: the same job as plugins/webapp, written as its community writes operators.
//
// It exists to be measured beside Windlass, so nothing here is meant to make it slow. Without --tuned it is what the usual
// scaffold gives: CreateOrUpdate, one reconcile at a time, a Lease that is left to expire at the end. With --tuned it is what
// an experienced author would make of it: server-side apply of what differs, eight reconciles at once, watches that are warm
// on standbys, and a Lease that is released. The lease durations are the defaults in both: shorter ones cost false failovers.
package main

import (
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// renewDeadline is controller-runtime's default, repeated because the lock is made here.
const renewDeadline = 10_000_000_000

func main() {
	ctrl.SetLogger(zap.New())
	if err := run(readFlags(os.Args[1:])); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(flags flags) error {
	restConfig, err := clientcmd.BuildConfigFromFlags("", flags.text("kubeconfig"))
	if err != nil {
		return err
	}
	// What ctrl.GetConfig does: no client-side rate limit.
	restConfig.QPS = -1

	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	if err := addToScheme(scheme); err != nil {
		return err
	}

	namespace, tuned := flags.text("namespace"), flags.on("tuned")
	options := ctrl.Options{
		Scheme:                 scheme,
		HealthProbeBindAddress: flags.text("health-probe-bind-address"),
		Metrics:                metricsserver.Options{BindAddress: flags.text("metrics-bind-address")},
		Cache:                  cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}},
		LeaderElection:         flags.on("leader-elect"),
	}
	if every := flags.text("sync-period"); every != "" {
		period, err := time.ParseDuration(every)
		if err != nil {
			return err
		}
		options.Cache.SyncPeriod = &period
	}
	if options.LeaderElection {
		lock, err := newLock(restConfig, namespace, flags.text("pod-name"))
		if err != nil {
			return err
		}
		options.LeaderElectionResourceLockInterface = lock
		options.LeaderElectionID = lockName
		options.LeaderElectionNamespace = namespace
	}
	if flags.on("cache-only") {
		return holdCache(restConfig, options, tuned)
	}
	if tuned {
		warm := true
		options.LeaderElectionReleaseOnCancel = true
		options.Controller = config.Controller{MaxConcurrentReconciles: 8, EnableWarmup: &warm}
	}

	manager, err := ctrl.NewManager(restConfig, options)
	if err != nil {
		return err
	}
	reconciler := &reconciler{
		client:   manager.GetClient(),
		scheme:   scheme,
		recorder: manager.GetEventRecorder(fieldManager),
		tuned:    tuned,
	}
	if err := reconciler.setUp(manager); err != nil {
		return err
	}
	if err := manager.AddHealthzCheck("healthz", healthz.Ping); err != nil {
		return err
	}
	if err := manager.AddReadyzCheck("readyz", healthz.Ping); err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}

// lockName is the name of the Lease.
const lockName = "webapp"

// newLock is the lock that the manager would make, but with the pod's name in the place of the host's: the replicas that are
// compared are processes on one machine.
func newLock(restConfig *rest.Config, namespace, pod string) (resourcelock.Interface, error) {
	return resourcelock.NewFromKubeconfig(
		resourcelock.LeasesResourceLock,
		namespace,
		lockName,
		resourcelock.ResourceLockConfig{Identity: pod + "_" + string(uuid.NewUUID())},
		rest.AddUserAgent(restConfig, "leader-election"),
		renewDeadline,
	)
}

// eventWarning is the type of an Event that a person should see.
const eventWarning = corev1.EventTypeWarning
