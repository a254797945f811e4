package main

import (
	"context"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// fieldManager is the name that the API server keeps beside what is applied.
const fieldManager = "webapp-operator"

type reconciler struct {
	client   client.Client
	scheme   *runtime.Scheme
	recorder events.EventRecorder
	tuned    bool
}

func (r *reconciler) setUp(manager ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(manager).
		For(&WebApp{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&appsv1.Deployment{}).
		Owns(&corev1.Service{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&networkingv1.Ingress{}).
		Owns(&policyv1.PodDisruptionBudget{}).
		Complete(r)
}

// Reconcile makes the children what they should be, then writes the status.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	app := &WebApp{}
	if err := r.client.Get(ctx, request.NamespacedName, app); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !app.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	var deployment *appsv1.Deployment
	for _, child := range childrenOf(app) {
		object := child.empty()
		object.SetName(app.Name)
		object.SetNamespace(app.Namespace)
		if !child.wanted {
			if err := r.remove(ctx, app, object); err != nil {
				return ctrl.Result{}, err
			}
			continue
		}
		if err := r.ensure(ctx, app, object, child); err != nil {
			return ctrl.Result{}, err
		}
		if found, is := object.(*appsv1.Deployment); is {
			deployment = found
		}
	}
	return ctrl.Result{}, r.writeStatus(ctx, app, deployment)
}

// ensure makes one child what it should be, and leaves in object what there is now.
func (r *reconciler) ensure(ctx context.Context, app *WebApp, object client.Object, child child) error {
	set := func() error {
		labels := maps.Clone(object.GetLabels())
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, app.labels())
		object.SetLabels(labels)
		child.set(object)
		return controllerutil.SetControllerReference(app, object, r.scheme)
	}
	if !r.tuned {
		_, err := controllerutil.CreateOrUpdate(ctx, r.client, object, set)
		return err
	}
	err := r.client.Get(ctx, client.ObjectKeyFromObject(object), object)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	if err == nil {
		existing := object.DeepCopyObject()
		if err := set(); err != nil {
			return err
		}
		if equality.Semantic.DeepEqual(existing, object) {
			return nil
		}
	}
	return r.apply(ctx, app, object, child)
}

// apply sends one child by server-side apply.
func (r *reconciler) apply(ctx context.Context, app *WebApp, object client.Object, child child) error {
	wanted := child.empty()
	wanted.SetName(app.Name)
	wanted.SetNamespace(app.Namespace)
	wanted.SetLabels(app.labels())
	child.set(wanted)
	if err := controllerutil.SetControllerReference(app, wanted, r.scheme); err != nil {
		return err
	}
	kind, err := apiutil.GVKForObject(wanted, r.scheme)
	if err != nil {
		return err
	}
	wanted.GetObjectKind().SetGroupVersionKind(kind)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(wanted)
	if err != nil {
		return err
	}
	delete(content, "status")
	configuration := &unstructured.Unstructured{Object: content}
	err = r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(configuration),
		client.FieldOwner(fieldManager), client.ForceOwnership)
	if err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(configuration.Object, object)
}

// remove deletes a child that is no longer wanted, if it is ours.
func (r *reconciler) remove(ctx context.Context, app *WebApp, object client.Object) error {
	err := r.client.Get(ctx, client.ObjectKeyFromObject(object), object)
	if apierrors.IsNotFound(err) || (err == nil && !metav1.IsControlledBy(object, app)) {
		return nil
	}
	if err != nil {
		return err
	}
	return client.IgnoreNotFound(r.client.Delete(ctx, object))
}
