package main

import (
	"errors"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
)

// holdCache holds every ConfigMap of the cluster and does nothing with them: for the benchmarks of memory and of cold starts.
// Tuned, it leaves managedFields out, as the documentation advises.
func holdCache(restConfig *rest.Config, options ctrl.Options, tuned bool) error {
	options.LeaderElection = false
	options.Cache = cache.Options{}
	if tuned {
		options.Cache.DefaultTransform = cache.TransformStripManagedFields()
	}
	manager, err := ctrl.NewManager(restConfig, options)
	if err != nil {
		return err
	}
	stop := ctrl.SetupSignalHandler()
	informer, err := manager.GetCache().GetInformer(stop, &corev1.ConfigMap{}, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	synced := func(*http.Request) error {
		if informer.HasSynced() {
			return nil
		}
		return errors.New("not synced")
	}
	if err := manager.AddReadyzCheck("readyz", synced); err != nil {
		return err
	}
	return manager.Start(stop)
}
